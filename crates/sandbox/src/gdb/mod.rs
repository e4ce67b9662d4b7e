//! Debugging a guest with gdb: a session over TCP while the guest's call stands still.
//!
//! ```text
//! breakpoint call, fault, or start --> wait for a connection --> session --> the call goes on
//!                                          \-> nobody came, port in use: the call goes on
//! ```
//!
//! Guards: only where the program's settings say so; bound to loopback; one session at a time in
//! the process; breakpoints are in this VM's memory alone and are gone when the session ends,
//! however it ends. What gdb sends is as hostile as what a guest does: it reaches this guest's
//! memory and registers, nothing of the host.

mod debuggee;
mod registers;
mod wire;

use std::time::Duration;

use gdbstub::stub::GdbStub;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use parking_lot::Mutex;

use crate::machine::{Exit, Machine};
use crate::{Fault, Hypercalls};
use debuggee::{Debuggee, Stopped};
use wire::Wire;

/// The port that gdb connects to, unless a program has its own.
pub const DEFAULT_PORT: u16 = 2159;
/// How long the guest may run from one command of gdb to the next stop, and how long gdb may be
/// silent while the guest stands still.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of a packet of gdb's; it is told.
const LONGEST_PACKET: usize = 16 << 10;

static SESSION: Mutex<()> = Mutex::new(());

/// When a program may be debugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debugging {
    /// At a call of the program ([`crate::Action::Break`]).
    pub at_breakpoints: bool,
    /// When it does something wrong.
    pub at_faults: bool,
    /// Before its first instruction.
    pub at_start: bool,
    /// The TCP port.
    pub port: u16,
    /// How long it waits for gdb to connect.
    pub wait: Duration,
}

impl Default for Debugging {
    fn default() -> Self {
        Self {
            at_breakpoints: false,
            at_faults: false,
            at_start: false,
            port: DEFAULT_PORT,
            wait: Duration::from_secs(60),
        }
    }
}

impl Machine {
    /// Lets gdb look at the guest, which stands still because of `why`. Answers how the guest's
    /// call ended, if it did meanwhile.
    pub(crate) fn debug(
        &mut self,
        why: &str,
        calls: &mut dyn Hypercalls,
    ) -> Option<Result<Exit, Fault>> {
        self.watch.disarm();
        self.stopwatch.exit();
        // Nobody needs to come where the program cannot be looked at.
        let user = self.user_regs().filter(|_| !self.unattended)?;
        let Some(_session) = SESSION.try_lock() else {
            calls.notice(&format!(
                "{why}: goes on: another debugging session is open"
            ));
            return None;
        };
        let (port, wait) = (self.debugging.port, self.debugging.wait);
        let wire = Wire::listen(port).and_then(|listener| {
            let line = format!("{why}: waits {wait:?} for gdb at 127.0.0.1:{port}");
            calls.notice(&line);
            listener.accept(wait, PATIENCE)
        });
        let wire = match wire {
            Ok(wire) => wire,
            Err(error) => {
                self.unattended = true;
                calls.notice(&format!("{why}: goes on without gdb: {error}"));
                return None;
            }
        };
        let mut debuggee = Debuggee::new(self, calls, user);
        let result = serve(&mut debuggee, wire);
        let end = debuggee.leave();
        calls.notice(&match (result, &end) {
            (Err(error), _) => format!("the debugging session broke off: {error}"),
            (Ok(()), None) => "the debugging session is over, the program goes on".to_owned(),
            (Ok(()), Some(_)) => "the debugging session ended with the call".to_owned(),
        });
        end
    }
}

/// Talks with gdb until it goes or the guest's call is over.
fn serve(debuggee: &mut Debuggee<'_>, wire: Wire) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    // One of gdbstub's own would grow with a packet that does not end.
    let mut packet = vec![0; LONGEST_PACKET];
    let mut gdb = GdbStub::builder(wire)
        .with_packet_buffer(&mut packet)
        .build()
        .map_err(|error| text(&error))?
        .run_state_machine(debuggee)
        .map_err(|error| text(&error))?;
    loop {
        gdb = match gdb {
            GdbStubStateMachine::Idle(mut gdb) => {
                let byte = gdb.borrow_conn().read().map_err(|error| text(&error))?;
                gdb.incoming_data(debuggee, byte)
            }
            GdbStubStateMachine::Running(mut gdb) => {
                let wire = gdb.borrow_conn();
                match debuggee.run(PATIENCE, &mut || wire.poll()) {
                    Stopped::For(reason) => gdb.report_stop(debuggee, reason),
                    Stopped::ByGdb(byte) => {
                        let byte = byte.map_err(|error| text(&error))?;
                        gdb.incoming_data(debuggee, byte)
                    }
                }
            }
            GdbStubStateMachine::CtrlCInterrupt(gdb) => {
                gdb.interrupt_handled(debuggee, Some(Debuggee::INTERRUPTED))
            }
            GdbStubStateMachine::Disconnected(_) => return Ok(()),
        }
        .map_err(|error| text(&error))?;
    }
}
