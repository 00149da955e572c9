//! cpd as systemd meets it: the units, sockets that are handed over, and what it tells the manager.

#[path = "activation/manager.rs"]
mod manager;
mod running;
#[path = "activation/sockets.rs"]
mod sockets;
#[path = "activation/units.rs"]
mod units;
