//! What needs no running cpd: the control protocol's parser, records of predecessors, what fuzzing has kept, the ledger that
//! judges messages, and floods of logins on virtual time.

mod control_requests;
mod corpora;
mod fair_logins;
mod heritage;
mod ledger;
mod thaw;
