//! Random numbers for requests, from the host kernel, fetched in bulk: no two requests share any,
//! and a number that was handed out is not kept.

use std::io;

const BUFFER: usize = 4096;

/// A buffer of random bytes that a slot draws from.
pub(crate) struct Random {
    bytes: Box<[u8; BUFFER]>,
    used: usize,
}

impl Random {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Box::new([0; BUFFER]),
            used: BUFFER,
        }
    }

    /// Two fresh numbers.
    pub(crate) fn pair(&mut self) -> io::Result<[u64; 2]> {
        Ok([self.number()?, self.number()?])
    }

    fn number(&mut self) -> io::Result<u64> {
        if self.used + 8 > BUFFER {
            fill(self.bytes.as_mut_slice())?;
            self.used = 0;
        }
        let mut number = [0; 8];
        if let Some(drawn) = self.bytes.get_mut(self.used..self.used + 8) {
            number.copy_from_slice(drawn);
            drawn.fill(0);
        }
        self.used += 8;
        Ok(u64::from_le_bytes(number))
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Random")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

/// Fills `out` from the kernel's generator; a signal may interrupt it at any byte.
fn fill(out: &mut [u8]) -> io::Result<()> {
    let mut rest = out;
    while !rest.is_empty() {
        // SAFETY: the pointer and the length are those of `rest`.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => rest = rest.get_mut(got..).unwrap_or_default(),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_differ_within_and_between_buffers() {
        let mut random = Random::new();
        let numbers: HashSet<u64> = (0..2000).flat_map(|_| random.pair().unwrap()).collect();
        assert_eq!(numbers.len(), 4000);
    }

    #[test]
    fn a_number_handed_out_is_wiped() {
        let mut random = Random::new();
        random.pair().unwrap();
        assert!(random.bytes[..16].iter().all(|&b| b == 0));
        assert!(random.bytes[16..].iter().any(|&b| b != 0));
    }
}
