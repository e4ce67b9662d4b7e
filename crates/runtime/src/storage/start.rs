//! Starting a storage VM: `main()` runs as in the main VM of requests, to the point where it waits,
//! and what it says about itself on the way is kept.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use sandbox::{GuestVirt, Host, MainVm, RequestLimits};

use super::queue::{Queue, Task};
use super::room::Room;
use super::{Shared, Storage, work};
use crate::instance::StartError;
use crate::launch::{Role, boot_config, memory_limits, run_main};
use crate::recipe::Recipe;
use crate::source::Binaries;
use crate::statistics::SlotCounters;

/// Storage programs from this address on are upstream's way to map storage into request VMs.
const REMOTE: u64 = 1 << 30;

/// What a storage VM says while it starts.
#[derive(Debug, Default)]
pub(crate) struct Founding {
    allowed: Vec<GuestVirt>,
    queue: Queue,
}

impl Founding {
    /// Requests may call this function. False: too many.
    pub(crate) fn allow(&mut self, function: GuestVirt) -> bool {
        const MOST: usize = 4096;
        if self.allowed.len() < MOST && !self.allowed.contains(&function) {
            self.allowed.push(function);
        }
        self.allowed.contains(&function)
    }

    /// As `Shared::task`, once the storage has started.
    pub(crate) fn task(&mut self, function: GuestVirt, data: Vec<u8>) -> bool {
        let task = Task {
            function,
            data: data.into(),
        };
        self.queue.push_task(task, std::time::Instant::now())
    }

    /// As `Shared::timer`; the timer survives a restart.
    pub(crate) fn timer(
        &mut self,
        function: GuestVirt,
        data: Vec<u8>,
        start: Duration,
        period: Option<Duration>,
    ) -> Option<i64> {
        self.queue.set_timer(function, data, start, period, true)
    }

    pub(crate) fn stop_timer(&mut self, id: i64) -> bool {
        self.queue.stop_timer(id)
    }
}

impl Storage {
    /// Starts a program's storage VM and the thread that runs it.
    pub(crate) fn start(
        host: &Arc<Host>,
        recipe: &Recipe,
        binaries: &Binaries,
    ) -> Result<Self, StartError> {
        let elf = binaries.for_storage();
        if let Some(entry) = entry_of_fixed(elf)
            && entry >= REMOTE
        {
            return Err(StartError::RemoteStorage { entry });
        }
        let mut config = boot_config(recipe, Role::Storage);
        // It is the program's memory that is limited, not what one call may write.
        config.request = RequestLimits {
            memory: recipe.max_memory,
            keep: 0,
        };
        let limits = memory_limits(&config);
        let of_storage = |error: StartError| StartError::Storage(Box::new(error));
        let mut main =
            MainVm::boot(host, elf, &config).map_err(|error| of_storage(error.into()))?;
        let mut founding = Founding::default();
        let (entry, desk) =
            run_main(&mut main, recipe, &limits, Some(&mut founding), None).map_err(of_storage)?;
        let image = main.freeze()?;
        let Founding { allowed, queue } = founding;
        let shared = Arc::new(Shared {
            program: recipe.name.clone(),
            image,
            limits,
            entry,
            allowed,
            max_time: recipe.max_storage_time,
            max_state: usize::try_from(recipe.max_memory).unwrap_or(usize::MAX),
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            hand_over: OnceLock::new(),
            busy: AtomicBool::new(false),
            machine: SlotCounters::default(),
            counters: Arc::default(),
        });
        let (made, is_made) = mpsc::sync_channel(1);
        let storage = Self {
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name("tinykvm-store".to_owned())
            .spawn(move || match Room::new(Arc::clone(&shared), desk) {
                Ok(room) => {
                    let _nobody_asks = made.send(Ok(()));
                    work(&shared, room);
                }
                Err(error) => {
                    let _nobody_asks = made.send(Err(error));
                }
            })
            .map_err(StartError::Thread)?;
        match is_made.recv() {
            Ok(Ok(())) => Ok(storage),
            Ok(Err(error)) => Err(StartError::Host(error)),
            Err(mpsc::RecvError) => Err(StartError::Panicked),
        }
    }
}

/// Where an executable of fixed addresses begins. What is no such executable is for the loader to
/// say.
fn entry_of_fixed(elf: &[u8]) -> Option<u64> {
    const EXECUTABLE: [u8; 2] = [2, 0];
    let kind = elf.get(16..18)?;
    let entry = elf.get(24..32)?.try_into().ok()?;
    (kind == EXECUTABLE).then(|| u64::from_le_bytes(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executables_of_fixed_addresses_have_an_entry_of_their_own() {
        let mut elf = vec![0; 64];
        elf[24..32].copy_from_slice(&0x4400_0000_u64.to_le_bytes());
        assert_eq!(entry_of_fixed(&elf), None);
        elf[16] = 2;
        assert_eq!(entry_of_fixed(&elf), Some(0x4400_0000));
        assert_eq!(entry_of_fixed(&elf[..20]), None);
        assert_eq!(entry_of_fixed(b""), None);
    }
}
