//! The TCP connection to gdb. Every wait on it has an end.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use gdbstub::conn::Connection;

#[derive(Debug)]
pub(super) struct Listener(TcpListener);

#[derive(Debug)]
pub(super) struct Wire(TcpStream);

impl Wire {
    /// Listens where only this machine can connect.
    pub(super) fn listen(port: u16) -> io::Result<Listener> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        Ok(Listener(listener))
    }

    /// The next byte; waits for it.
    pub(super) fn read(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// The next byte if there is one.
    pub(super) fn poll(&mut self) -> Option<io::Result<u8>> {
        match readable(&self.0, Duration::ZERO) {
            Ok(false) => None,
            Ok(true) => Some(self.read()),
            Err(error) => Some(Err(error)),
        }
    }
}

impl Listener {
    /// The first connection within `wait`. Each later wait on it takes at most `patience`.
    pub(super) fn accept(self, wait: Duration, patience: Duration) -> io::Result<Wire> {
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if !readable(&self.0, left)? {
                let text = format!("nobody connected within {wait:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            match self.0.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(patience))?;
                    stream.set_write_timeout(Some(patience))?;
                    return Ok(Wire(stream));
                }
                // It has gone again meanwhile.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Connection for Wire {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        io::Write::write_all(&mut self.0, &[byte])
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.0, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::Write::flush(&mut self.0)
    }
}

/// Whether something can be read or accepted within `wait`. A signal ends the waiting early.
fn readable(socket: &impl AsRawFd, wait: Duration) -> io::Result<bool> {
    let end = Instant::now() + wait;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one structure, which lives here; the descriptor is open as long as `socket`.
        match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
            0 => return Ok(false),
            1.. => return Ok(true),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
