//! Counters of slots and programs. Relaxed atomics: each is a sum that someone reads now and then,
//! none orders anything.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident / $values:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: Counter,)*
        }

        /// What the counters said at one moment.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $values {
            $($(#[$field_doc])* pub(crate) $field: u64,)*
        }

        impl $values {
            /// Adds another reading, field by field.
            pub(crate) fn add(&mut self, other: &Self) {
                let Self { $($field,)* } = other;
                $(self.$field = self.$field.wrapping_add(*$field);)*
            }
        }

        impl $name {
            pub(crate) fn values(&self) -> $values {
                $values { $($field: self.$field.get(),)* }
            }
        }
    };
}

counters! {
    /// What one slot has done. Times are in nanoseconds.
    SlotCounters / SlotValues {
        /// Guest calls made.
        invocations,
        /// Wipes after a request, full ones included.
        resets,
        /// Wipes that gave memory back to the host.
        resets_full,
        /// Guest calls that ended by a fault of the CPU or a misused hypercall.
        exceptions,
        /// Guest calls that ended for lack of memory.
        exception_oom,
        /// Guest calls that ended because the host could not use an address.
        exception_mem,
        /// Guest calls that ran out of time.
        timeouts,
        /// Time callers waited for the slot.
        reservation_time,
        /// Time spent wiping.
        reset_time,
        /// CPU time of guest calls that answered.
        request_cpu_time,
        /// CPU time of guest calls that did not.
        exception_cpu_time,
        /// Request body bytes.
        input_bytes,
        /// Response body bytes announced.
        output_bytes,
        status_2xx,
        status_3xx,
        status_4xx,
        status_5xx,
        /// KVM_RUN calls.
        kvm_runs,
        /// Those of them that a signal cut short.
        interruptions,
        /// Other KVM calls.
        ioctls,
        /// Linux system calls of the guest.
        system_calls,
        /// Exceptions of the guest's CPU that reached the host.
        guest_exceptions,
        /// Pages that wipes had to restore.
        dirty_pages,
        /// A level, not a sum: bytes of memory of its own that the last wipe found in use.
        memory,
        /// The highest level of these.
        memory_highest,
    }
}

counters! {
    /// What one instance has done apart from its slots.
    InstanceCounters / InstanceValues {
        /// Callers that found no slot in time.
        reservation_timeouts,
        /// Slots thrown away because a wipe failed or because of a panic of ours.
        poisoned,
        /// Slots made, replacements for those included.
        made,
    }
}

counters! {
    /// What one storage has done apart from its VM.
    StorageCounters / StorageValues {
        /// Calls of requests.
        calls,
        /// Those that failed in the storage VM.
        failed_calls,
        /// Those whose caller's time was over first.
        abandoned_calls,
        /// Functions called without anyone waiting: tasks and timers.
        tasks,
        /// Tasks and timers that were too many.
        refused_tasks,
        /// VMs that broke and were replaced.
        restarts,
    }
}

counters! {
    /// What the process has asked others for.
    OutgoingCounters / OutgoingValues {
        /// Requests to this Varnish, by programs and by chains.
        self_requests,
        /// Those of them that brought no answer.
        self_requests_failed,
        /// Requests of programs to others.
        fetches,
        /// Those of them that brought no answer.
        fetches_failed,
        /// Time spent waiting for all of those. In nanoseconds.
        fetch_time,
    }
}

counters! {
    /// What all programs of one name have done, whichever instance served.
    ProgramCounters / ProgramValues {
        /// Instances that a live update has put into service.
        live_updates,
        /// Bytes of state that live updates have handed over.
        live_update_transfer_bytes,
        /// Live updates that left the old instance in service.
        live_updates_failed,
        /// Callers that found enough others waiting, for an instance or for one of its slots.
        reservation_refused,
    }
}

counters! {
    /// What the process has done apart from any program. Times are in nanoseconds.
    ProcessCounters / ProcessValues {
        /// Calls from VCL with the name of a program that does not exist.
        program_notfound,
        /// Time that VCL waited for programs to answer, queues included, self-requests not.
        cpu_time,
    }
}

/// The process's own.
pub(crate) static PROCESS: LazyLock<ProcessCounters> = LazyLock::new(ProcessCounters::default);

/// Counts the time of its life as time that VCL waits for a program.
#[derive(Debug)]
pub(crate) struct Waiting(Instant);

impl Waiting {
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        PROCESS.cpu_time.add_time(self.0.elapsed());
    }
}

/// One sum, or one level.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        // Most of what is added is nothing, and even that would cost a locked instruction.
        if amount > 0 {
            self.0.fetch_add(amount, Ordering::Relaxed);
        }
    }

    pub(crate) fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Sets a level. One thread at a time does so.
    pub(crate) fn set(&self, level: u64) {
        self.0.store(level, Ordering::Relaxed);
    }

    /// Raises a highest level.
    pub(crate) fn raise(&self, level: u64) {
        if level > self.get() {
            self.0.fetch_max(level, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl SlotCounters {
    /// Adds what a VM has cost since `before`.
    pub(crate) fn vm(&self, now: &sandbox::Counters, before: &sandbox::Counters) {
        let add =
            |counter: &Counter, now: u64, before: u64| counter.add(now.saturating_sub(before));
        add(&self.kvm_runs, now.kvm_runs, before.kvm_runs);
        add(&self.interruptions, now.interruptions, before.interruptions);
        add(&self.ioctls, now.ioctls, before.ioctls);
        add(&self.system_calls, now.system_calls, before.system_calls);
        add(&self.guest_exceptions, now.exceptions, before.exceptions);
        add(&self.dirty_pages, now.dirty_pages, before.dirty_pages);
    }

    /// Counts the CPU time of a guest call.
    pub(crate) fn cpu_time(&self, answered: bool, time: Duration) {
        if answered {
            &self.request_cpu_time
        } else {
            &self.exception_cpu_time
        }
        .add_time(time);
    }

    /// Counts the class of a status that a client is going to see.
    pub(crate) fn status(&self, status: u16) {
        match status {
            200..300 => &self.status_2xx,
            300..400 => &self.status_3xx,
            400..500 => &self.status_4xx,
            _ => &self.status_5xx,
        }
        .add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_counts_in_its_class() {
        let counters = SlotCounters::default();
        for status in [200, 299, 304, 404, 500, 599] {
            counters.status(status);
        }
        let values = counters.values();
        assert_eq!(
            (
                values.status_2xx,
                values.status_3xx,
                values.status_4xx,
                values.status_5xx
            ),
            (2, 1, 1, 2)
        );
    }

    #[test]
    fn totals_are_sums_of_all_slots() {
        let slot = SlotCounters::default();
        slot.invocations.add(3);
        slot.reset_time.add_time(Duration::from_micros(2));
        let mut total = slot.values();
        total.add(&slot.values());
        assert_eq!((total.invocations, total.reset_time), (6, 4000));
    }
}
