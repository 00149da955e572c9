//! What every command gets, and what it gives.

use serde::Serialize;

use super::exit::Failure;
use super::render::to_json_line;
use super::target::Target;

/// The global options, which every command gets.
pub(crate) struct Context {
    pub target: Target,
    pub json: bool,
}

/// The result of a command.
#[derive(Default)]
pub(crate) struct CommandOutput {
    /// The text for stdout.
    pub text: String,
    /// The error to report after the text, if the command itself worked but found something bad.
    pub failure: Option<Failure>,
    /// A sentence to add to the error if the text cannot be written to stdout. With `None`, nothing is lost then, and a
    /// closed pipe is not an error.
    pub write_failure_note: Option<&'static str>,
}

impl From<String> for CommandOutput {
    fn from(text: String) -> CommandOutput {
        CommandOutput { text, ..CommandOutput::default() }
    }
}

/// The output of a command: the document as JSON with `--json`, otherwise the text.
pub(crate) fn json_or_text(
    context: &Context,
    document: &impl Serialize,
    text: impl FnOnce() -> String,
) -> CommandOutput {
    if context.json { to_json_line(document).into() } else { text().into() }
}
