//! One request VM of an instance and all that the host keeps for it.
//!
//! ```text
//! Ready --push, handle--> Used --reset--> Ready
//!                          \--reset failed, VM broke, panic of ours--> thrown away
//! ```
//!
//! Guards: nothing of a request is left in a slot that goes back to the pool. `reset` names all
//! fields, so that a new one does not compile until someone decided about it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Counters, HostError, Vm};

use crate::body::{Body, BodyError};
use crate::exchange::Exchange;
use crate::hypercalls::{Desk, Entry};
use crate::instance::{Instance, Retired};
use crate::lasting::Lasting;
use crate::random::Random;
use crate::request_abi::Layout;
use crate::runner::{Orders, Runner};
use crate::statistics::SlotCounters;
use crate::stream::Outflow;
use crate::stream_post::Inflow;

pub(crate) struct Slot {
    pub(crate) vm: Vm,
    pub(crate) desk: Desk,
    pub(crate) layout: Layout,
    pub(crate) random: Random,
    pub(crate) body: Option<Body>,
    pub(crate) inflow: Option<Inflow>,
    pub(crate) outflow: Outflow,
    pub(crate) state: State,
    pub(crate) counters: Arc<SlotCounters>,
    pub(crate) lasting: Lasting,
    /// What the VM's counters said before this request, when they were last added to ours.
    seen: Counters,
    runner: Option<Runner<Retired>>,
    number: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// As forked.
    Ready,
    /// A request has begun to come in.
    Loaded,
    /// The guest has run.
    Served,
    /// It failed in the middle of a body: there is nothing more to have from it.
    Spent,
    /// Not to be used again.
    Poisoned,
}

impl Slot {
    pub(crate) fn new(
        number: usize,
        vm: Vm,
        desk: Desk,
        counters: Arc<SlotCounters>,
        runner: Option<Runner<Retired>>,
    ) -> Self {
        Self {
            vm,
            desk,
            layout: Layout::default(),
            random: Random::new(),
            body: None,
            inflow: None,
            outflow: Outflow::default(),
            state: State::Ready,
            counters,
            lasting: Lasting::default(),
            seen: Counters::default(),
            runner,
            number,
        }
    }

    /// Which of the instance's slots it is.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The way to the slot's own thread, if it has one.
    pub(crate) fn orders(&self) -> Option<Orders<Retired>> {
        self.runner.as_ref().map(Runner::orders)
    }

    /// Says that the request has a body and how long it is, if that is known.
    pub(crate) fn begin_body(
        &mut self,
        instance: &Instance,
        len: Option<u64>,
    ) -> Result<(), BodyError> {
        self.load()?;
        let in_parts = self.inflow.is_some();
        let (body, vm) = self.body_of(instance);
        match len {
            Some(len) if !in_parts => body.expect(vm, len, instance.max_body()),
            _ => Ok(()),
        }
    }

    pub(crate) fn push_body(
        &mut self,
        instance: &Instance,
        chunk: &[u8],
        exchange: &mut dyn Exchange,
    ) -> Result<(), BodyError> {
        self.load()?;
        if let Some(function) = instance.entry().get(Entry::StreamPost) {
            return self.stream_in(instance, function, chunk, exchange);
        }
        let (body, vm) = self.body_of(instance);
        body.push(vm, chunk, instance.max_body())
    }

    /// The request's body, begun if need be, and the VM that it is in.
    pub(crate) fn body_of(&mut self, instance: &Instance) -> (&mut Body, &mut Vm) {
        // Where a VM is not reset, what a body has written goes on counting.
        let rest = if instance.is_ephemeral() {
            0
        } else {
            instance.max_body() / 8
        };
        let body = self.body.get_or_insert_with(|| Body::begin(rest));
        (body, &mut self.vm)
    }

    fn load(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Ready | State::Loaded => {
                self.state = State::Loaded;
                Ok(())
            }
            State::Served | State::Spent | State::Poisoned => Err(BodyError::Over),
        }
    }

    /// Makes the slot as it was when it was forked.
    pub(crate) fn reset(&mut self) -> Result<(), HostError> {
        let begun = Instant::now();
        let Self {
            vm,
            desk,
            layout,
            random: _, // what it handed out it does not know any more
            body,
            inflow,
            outflow,
            state,
            counters, // about the slot, not the request
            lasting,
            seen: _,   // what was counted of the VM
            runner: _, // a thread without state
            number: _, // constant
        } = self;
        lasting.reset();
        desk.reset();
        layout.reset();
        *body = None;
        *inflow = None;
        outflow.reset();
        let wiped = vm.reset()?;
        *state = State::Ready;
        counters.resets.add(1);
        counters.resets_full.add(u64::from(wiped.full));
        let memory = wiped.held.saturating_mul(sandbox::PAGE_SIZE);
        counters.memory.set(if wiped.full { 0 } else { memory });
        counters.memory_highest.raise(memory);
        counters.reset_time.add_time(begun.elapsed());
        self.count_vm();
        Ok(())
    }

    /// Whether the slot is soon ready for its next request.
    pub(crate) fn is_quickly_reset(&self, instance: &Instance) -> bool {
        instance.is_ephemeral() && self.vm.is_quickly_reset()
    }

    /// Makes a guest call and counts its CPU time.
    pub(crate) fn timed<T, E>(
        &mut self,
        call: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let begun = self.vm.counters().cpu_time;
        let result = call(self);
        let spent = self.vm.counters().cpu_time.saturating_sub(begun);
        self.counters.cpu_time(result.is_ok(), spent);
        result
    }

    /// KVM exits and CPU time of this request so far.
    pub(crate) fn cost(&self) -> (u64, Duration) {
        let (now, before) = (self.vm.counters(), &self.seen);
        (
            now.kvm_runs.saturating_sub(before.kvm_runs),
            now.cpu_time.saturating_sub(before.cpu_time),
        )
    }

    /// Adds what the VM has cost since the last time.
    pub(crate) fn count_vm(&mut self) {
        let now = self.vm.counters();
        let before = std::mem::replace(&mut self.seen, now);
        self.counters.vm(&now, &before);
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("number", &self.number)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
