//! A child has every descriptor of this process from its making until its exec(2), the lock of a store among them: a store
//! that another thread has just closed would still be held, and its next opening be refused. So no process is made while
//! this one has a store open.

use std::io;
use std::process::{Child, Command};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Read by those who have a store open, written by those who make a process.
static OPEN: RwLock<()> = RwLock::new(());

/// To be had before a store is opened, and until it is closed.
pub fn hold() -> RwLockReadGuard<'static, ()> {
    OPEN.read().unwrap_or_else(PoisonError::into_inner)
}

/// [`Command::spawn`], which returns behind the exec(2).
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _nobody = OPEN.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}
