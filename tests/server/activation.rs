//! cpd as systemd meets it: the units, sockets that are handed over, and what it tells the manager.

mod manager;
mod sockets;
mod units;

use cpd_testing::running;
