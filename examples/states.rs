//! The state table of CP as the code has it: `cargo run --example states` prints every state with every event,
//! `-- contract` the table of docs/protocol.md section 5, `-- dot` its picture, `-- dot classic` that of the classic
//! dialect (`| dot -Tsvg`).

use std::process::ExitCode;

use cpd::proto::dfa::Dialect;
use cpd::proto::table::{contract_rows, dot, matrix};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => print_matrix(Dialect::Cp),
        ["classic"] => print_matrix(Dialect::Classic),
        ["contract"] => print_contract(),
        ["dot"] => print!("{}", dot(Dialect::Cp)),
        ["dot", "classic"] => print!("{}", dot(Dialect::Classic)),
        _ => {
            eprintln!("usage: states [classic | contract | dot [classic]]");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}

fn print_matrix(dialect: Dialect) {
    let heading = ["state", "", "event", "next", "says"].map(str::to_owned);
    let cells = matrix(dialect).into_iter().map(|cell| {
        let (state, detail) = (cell.situation.state_name(), cell.situation.detail());
        let said = if cell.closes { "closes".to_owned() } else { cell.said() };
        [state.to_owned(), detail.to_owned(), cell.kind.name(), cell.next.to_owned(), said]
    });
    let rows: Vec<[String; 5]> = std::iter::once(heading).chain(cells).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2), width(3)];
    for [state, detail, event, next, said] in &rows {
        let [a, b, c, d] = widths;
        println!("{state:a$}  {detail:b$}  {event:c$}  {next:d$}  {said}");
    }
}

fn print_contract() {
    println!("| state | on | next | reply |\n|---|---|---|---|");
    for row in contract_rows() {
        println!("| {} | {} | {} | {} |", row.state, row.on, row.next, row.reply);
    }
}
