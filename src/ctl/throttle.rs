//! `cpctl throttle`: lists and clears throttles.

use clap::ArgMatches;
use cp_proto::values::Username;
use cpd_control::answer::{Throttles, ThrottlesCleared};
use cpd_control::{ROWS_MAX, Request};
use serde::Serialize;

use super::client::DaemonClient;
use super::context::{CommandOutput, Context, json_or_text};
use super::exit::{ExitStatus, Failure};
use super::render::Table;

/// Shown for a throttle that applies to all users, or to all addresses.
const ANY: &str = "any";

pub(super) fn list(context: &Context, _: &ArgMatches) -> Result<CommandOutput, Failure> {
    let found: Throttles = DaemonClient::connect(&context.target)?.ask(&Request::ThrottleList { limit: ROWS_MAX })?;
    Ok(json_or_text(context, &found, || {
        let mut table = Table::new(&["USER", "ADDRESS", ">FAILURES", ">ADDRESSES", "UNTIL"]);
        for one in &found.throttles {
            table.add_row([
                one.user.as_deref().unwrap_or(ANY).to_owned(),
                one.address.as_deref().unwrap_or(ANY).to_owned(),
                one.failures.to_string(),
                one.addresses.to_string(),
                one.until.clone(),
            ]);
        }
        let more = if found.more { "there are more, which end earlier\n" } else { "" };
        table.text() + more
    }))
}

pub(super) fn clear(context: &Context, arguments: &ArgMatches) -> Result<CommandOutput, Failure> {
    #[derive(Serialize)]
    struct Document {
        user: Option<String>,
        address: Option<String>,
        forgotten: u64,
    }
    let (user, address) = (arguments.get_one::<Username>("user").copied(), arguments.get_one("address").copied());
    if user.is_none() && address.is_none() && !arguments.get_flag("all") {
        return Err(Failure::new(ExitStatus::Usage, "which ones: --user NAME, --address ADDRESS or --all"));
    }
    let ThrottlesCleared { forgotten } =
        DaemonClient::connect(&context.target)?.ask(&Request::ThrottleClear { user, address })?;
    let of: Vec<String> = user
        .iter()
        .map(|user| format!("for {user}"))
        .chain(address.iter().map(|address: &std::net::IpAddr| format!("from {address}")))
        .collect();
    let what =
        if of.is_empty() { "all failed logins".to_owned() } else { format!("failed logins {}", of.join(" and ")) };
    let document = Document {
        user: user.map(|user| user.to_string()),
        address: address.map(|address| address.to_string()),
        forgotten,
    };
    Ok(json_or_text(context, &document, || match forgotten {
        0 => format!("{what}: there are none\n"),
        _ => format!("{what} forgotten\n"),
    }))
}
