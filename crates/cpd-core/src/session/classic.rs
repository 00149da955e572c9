//! What only a session in the classic dialect has.

use cp_proto::line::Decoder;

use crate::dfa::Dialect;
use crate::time::{Millis, NEVER};

/// The state of a classic session that the other dialect does not need.
#[derive(Debug)]
pub(super) struct Classic {
    /// The decoder's state after the unread input, to find the end of a line there. `None` until it is needed, and while
    /// there is no unread input.
    pub lookahead: Option<Decoder>,
    /// When silence ends the unfinished PDU; [`NEVER`] while the timer does not run.
    pub silence: Millis,
}

impl Classic {
    /// The state at the beginning of a session; `None` in the dialect that needs none.
    pub fn for_dialect(dialect: Dialect) -> Option<Box<Classic>> {
        match dialect {
            Dialect::Cp => None,
            Dialect::Classic => Some(Box::default()),
        }
    }

    /// The lookahead of `decoder` behind the unread `input`; it is made if there is none.
    pub fn lookahead(&mut self, decoder: &Decoder, input: &[u8]) -> &mut Decoder {
        self.lookahead.get_or_insert_with(|| decoder.lookahead(input))
    }
}

impl Default for Classic {
    fn default() -> Classic {
        Classic { lookahead: None, silence: NEVER }
    }
}
