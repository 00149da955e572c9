//! A real cpd, as clients, operators, administrators, service managers and those who mean harm meet it.

mod activation;
mod control_hostile;
mod counters;
mod daemon;
mod guess_rate;
mod operators;
mod passwords;
mod peers;
mod real_clients;
mod replaced;
mod sandbox;
mod secrecy;
mod starvation;
mod store_tools;
mod strange_files;
mod succession;
mod urgent;
