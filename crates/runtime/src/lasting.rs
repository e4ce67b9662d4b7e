//! Request VMs that keep their state from one request to the next: those of programs that are not
//! ephemeral.
//!
//! ```text
//! used --no failure, no soft reset--> a paused program runs on to where it waits --> Ready
//!     \\--otherwise--> reset --> Ready
//! ```
//!
//! Guards: what the host keeps for a request is gone before the next one, whoever's state the VM
//! keeps; a VM in which anything failed is reset.

use std::time::Instant;

use sandbox::{Exit, Fault, GuestVirt, HostError, Regs};

use crate::exchange::Severity;
use crate::hypercalls::{EntryPoints, Scene, Stage, Waiting};
use crate::instance::Instance;
use crate::journal;
use crate::slot::{Slot, State};
use crate::warming::BACK_TO_WAITING;

/// Where a paused program waits for its next request. Callbacks may run before that comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// The place of the request.
    pub(crate) request: GuestVirt,
    /// With which it goes on, once something else was called.
    pub(crate) regs: Option<Regs>,
}

/// Whether a slot's VM can go on without a reset, and from where.
#[derive(Debug, Default)]
pub(crate) struct Lasting {
    /// None: as the image does.
    waits: Option<Waits>,
    /// The program was made to go on from where it waits.
    resumed: bool,
    /// The request was answered without any failure.
    unharmed: bool,
    /// The request asks for a reset.
    ended: bool,
}

impl Lasting {
    /// The program goes on: from where, if that is not the image's.
    pub(crate) fn resume(&mut self) -> Option<Waits> {
        self.resumed = true;
        self.waits.take()
    }

    pub(crate) fn served(&mut self, without_failure: bool) {
        self.unharmed = without_failure;
    }

    /// This state is not for another request.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    pub(crate) fn reset(&mut self) {
        let Self {
            waits,
            resumed,
            unharmed,
            ended,
        } = self;
        *waits = None;
        *resumed = false;
        *unharmed = false;
        *ended = false;
    }
}

/// Why a VM does not keep its state.
enum Lost {
    /// VCL wants it so.
    Asked,
    Because(String),
}

impl Lost {
    fn because(why: &str) -> Self {
        Self::Because(why.to_owned())
    }
}

impl Slot {
    /// Makes a slot that was used ready for its next request.
    pub(crate) fn renew(&mut self, instance: &Instance) -> Result<(), HostError> {
        if instance.is_ephemeral() {
            return self.reset();
        }
        match self.keep(instance) {
            Ok(()) => return Ok(()),
            Err(Lost::Asked) => {}
            Err(Lost::Because(why)) => {
                let number = self.number();
                let line = format!("request VM {number} is reset, what it kept is lost: {why}");
                journal::say(Severity::Error, instance.name(), line.as_bytes());
            }
        }
        self.reset()
    }

    /// Keeps the VM's state and forgets the request. After an error the VM has to be reset.
    fn keep(&mut self, instance: &Instance) -> Result<(), Lost> {
        let served = match self.state {
            State::Ready | State::Loaded => false,
            State::Served => true,
            State::Spent | State::Poisoned => return Err(Lost::because("its request failed")),
        };
        let lasting = &self.lasting;
        if lasting.ended {
            return Err(Lost::Asked);
        }
        if served && !lasting.unharmed {
            return Err(Lost::because("its request failed"));
        }
        if served && lasting.resumed && self.desk.answer.producer().is_some() {
            return Err(Lost::because(
                "a program that waits for requests in a loop made a body in parts",
            ));
        }
        if let Some(body) = self.body.take()
            && let Err(error) = body.release(&mut self.vm)
        {
            return Err(Lost::Because(error.to_string()));
        }
        self.forget_request();
        if self.lasting.resumed {
            self.go_back_to_waiting(instance)?;
        }
        self.lasting.resumed = false;
        self.lasting.unharmed = false;
        self.state = State::Ready;
        self.count_vm();
        Ok(())
    }

    /// Something else is about to be called than what a paused program waits for.
    pub(crate) fn leave_waiting(&mut self) -> Result<(), Fault> {
        if let Some(Waits {
            regs: regs @ None, ..
        }) = &mut self.lasting.waits
        {
            *regs = Some(self.vm.regs_behind_call()?);
        }
        Ok(())
    }

    /// Empties what the host keeps for one request.
    fn forget_request(&mut self) {
        self.vm.begin_next_call();
        self.desk.next_request();
        self.layout.reset();
        self.inflow = None;
        self.outflow.reset();
    }

    /// Runs a paused program from its answer to where it waits.
    fn go_back_to_waiting(&mut self, instance: &Instance) -> Result<(), Lost> {
        let mut entry = EntryPoints::default();
        let mut scene = Scene {
            stage: Stage::Between {
                program: instance.name(),
                entry: &mut entry,
            },
            desk: &mut self.desk,
            limits: instance.limits(),
            storage: instance.storage(),
        };
        let deadline = Instant::now() + BACK_TO_WAITING;
        let result = self.vm.continue_from_stop(deadline, &mut scene);
        let why = match (result, entry.waiting()) {
            (Ok(Exit::Stopped(_)), Some(Waiting::Paused { request })) => {
                let regs = None;
                self.lasting.waits = Some(Waits { request, regs });
                self.forget_request();
                return Ok(());
            }
            (Ok(_), _) => "it did not come to waiting for requests".to_owned(),
            (Err(fault), _) => self.vm.image().describe(&fault),
        };
        Err(Lost::Because(format!(
            "within {BACK_TO_WAITING:?} of its answer it has to wait for the next request, but: {why}"
        )))
    }
}
