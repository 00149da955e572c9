//! The state table of CP as the code has it: `cargo run --example states` prints every state with every event,
//! `-- contract` the table of docs/protocol.md section 5, `-- dot` its picture, `-- dot classic` that of the classic
//! dialect (`| dot -Tsvg`).

use std::io::Write;
use std::process::ExitCode;

use cpd_core::dfa::Dialect;
use cpd_core::table::{contract_rows, dot, matrix};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let text = match arguments[..] {
        [] => whole(Dialect::Cp),
        ["classic"] => whole(Dialect::Classic),
        ["contract"] => contract(),
        ["dot"] => dot(Dialect::Cp),
        ["dot", "classic"] => dot(Dialect::Classic),
        _ => {
            eprintln!("usage: states [classic | contract | dot [classic]]");
            return ExitCode::from(64);
        }
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough.
        Err(_) => ExitCode::FAILURE,
    }
}

fn whole(dialect: Dialect) -> String {
    let heading = ["state", "", "event", "next", "says"].map(str::to_owned);
    let cells = matrix(dialect).into_iter().map(|cell| {
        let (state, detail) = (cell.situation.state_name(), cell.situation.detail());
        [state.to_owned(), detail.to_owned(), cell.kind.name(), cell.next.to_owned(), cell.edge_label()]
    });
    let rows: Vec<[String; 5]> = std::iter::once(heading).chain(cells).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2), width(3)];
    let [a, b, c, d] = widths;
    let line = |[state, detail, event, next, said]: &[String; 5]| {
        format!("{state:a$}  {detail:b$}  {event:c$}  {next:d$}  {said}\n")
    };
    rows.iter().map(line).collect()
}

fn contract() -> String {
    let rows = contract_rows().into_iter();
    let lines = rows.map(|row| format!("| {} | {} | {} | {} |\n", row.state, row.on, row.next, row.reply));
    format!("| state | on | next | reply |\n|---|---|---|---|\n{}", lines.collect::<String>())
}
