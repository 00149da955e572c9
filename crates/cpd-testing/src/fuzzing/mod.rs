//! What the fuzzing targets check: bytes in, a fault of the product out. The targets of `fuzz/targets` and
//! `tests/checks/corpora.rs` share it, so that what fuzzing found is held by a plain `cargo test`; `examples/seeds.rs` writes what
//! [`program`] reads.
//!
//! Each check takes a [`Twin`]: a fault put between the product and the check, which the check has to find.

pub mod config;
pub mod control;
mod framing;
mod output;
pub mod program;
pub mod stream;
pub mod thaw;
pub mod world;

/// What is wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Twin {
    /// Nothing: what is found is a fault of the product.
    #[default]
    Honest,
    /// A byte on its way to the server is lost where a successor takes over.
    LostByte,
    /// A reply does not reach the client.
    LostReply,
    /// A client is not told of a message that is stored.
    UntoldStore,
    /// A reply comes twice.
    DoubledReply,
    /// A control character gets into the output.
    ControlCharacter,
    /// A message is altered on its way.
    AlteredBody,
    /// The line decoder drops an empty line.
    SkippedLine,
    /// Requests with fields that no command has are taken.
    UnknownFields,
    /// Keys that are none are skipped.
    UnknownKeys,
    /// Records with something behind them are taken.
    LongRecords,
}

/// Bytes as a report can show them.
pub fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
