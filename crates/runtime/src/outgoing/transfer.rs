//! One request and its answer, by libcurl, on a thread of the crew. What comes in goes to whoever
//! waits for it in bounded parts; what goes out is asked for in parts.
//!
//! Guards: only the address that was given is asked, nothing is followed, no proxy stands before
//! this Varnish; a transfer whose owner has left ends at its next byte, or at its deadline.

use std::io::SeekFrom;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use curl::easy::{Easy, List, ReadError, SeekResult};

use super::FetchError;
use super::home::Permit;

const CONNECT: Duration = Duration::from_secs(5);
/// Status line and fields of one answer.
const MOST_HEAD: usize = 64 << 10;
/// libcurl's buffer, and so the most that one part has.
const PART: usize = 64 << 10;
const TIMED_OUT: u32 = 28;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    /// With a body of so many bytes.
    Post(u64),
}

/// A request as a thread of the crew gets it. Owns all it needs: whoever ordered it may leave.
pub(super) struct Order {
    pub(super) address: String,
    pub(super) socket: Option<String>,
    /// It goes to this Varnish; the right to do so ends with the transfer.
    pub(super) permit: Option<Permit>,
    pub(super) method: Method,
    pub(super) fields: Vec<String>,
    pub(super) verify_host: bool,
    /// The connection is for this request alone.
    pub(super) private: bool,
    pub(super) deadline: Instant,
    pub(super) events: SyncSender<Event>,
    /// Answers to [`Event::Wants`].
    pub(super) parts: Receiver<Vec<u8>>,
}

/// What happens to a request.
#[derive(Debug)]
pub(super) enum Event {
    /// A part of the request body is due: up to `room` bytes from `offset`.
    Wants {
        offset: u64,
        room: usize,
    },
    /// Before the first part of the body, and before the end.
    Head(Head),
    Body(Vec<u8>),
    /// With where the answer redirects to, if it does.
    End(Result<Option<String>, FetchError>),
}

/// All of an answer but its body.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Status line, fields and the empty line, as they came.
    pub(crate) text: Vec<u8>,
    pub(crate) content_type: Vec<u8>,
    pub(crate) content_length: Option<u64>,
    /// It names another place.
    pub(super) redirects: bool,
}

/// An order that was carried out; its owner does not know yet.
pub(super) struct Done {
    events: SyncSender<Event>,
    result: Result<Option<String>, FetchError>,
}

impl Done {
    pub(super) fn tell(self) {
        let _left = self.events.send(Event::End(self.result));
    }
}

impl Order {
    /// Does what was ordered.
    pub(super) fn carry_out(self, easy: &mut Easy) -> Done {
        easy.reset();
        let result = self.run(easy);
        Done {
            events: self.events,
            result,
        }
    }

    fn run(&self, easy: &mut Easy) -> Result<Option<String>, FetchError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(FetchError::TimedOut);
        }
        self.prepare(easy, left).map_err(own_fault)?;
        let events = &self.events;
        let mut reading = Reading::default();
        let mut sent: u64 = 0;
        let heard = std::cell::RefCell::new(&mut reading);
        let offset = std::cell::RefCell::new(&mut sent);
        let result = {
            let mut transfer = easy.transfer();
            transfer
                .header_function(|line| heard.borrow_mut().line(line))
                .map_err(own_fault)?;
            transfer
                .write_function(|data| {
                    let head = heard.borrow_mut().finish();
                    let told = head.is_none_or(|head| events.send(Event::Head(head)).is_ok());
                    let whole = told && events.send(Event::Body(data.to_vec())).is_ok();
                    // Fewer bytes than there were end the transfer.
                    Ok(if whole { data.len() } else { 0 })
                })
                .map_err(own_fault)?;
            transfer
                .read_function(|out| {
                    let mut offset = offset.borrow_mut();
                    let wants = Event::Wants {
                        offset: **offset,
                        room: out.len(),
                    };
                    let part = events
                        .send(wants)
                        .ok()
                        .and_then(|()| self.parts.recv().ok())
                        .ok_or(ReadError::Abort)?;
                    let place = out.get_mut(..part.len()).ok_or(ReadError::Abort)?;
                    place.copy_from_slice(&part);
                    **offset = offset.saturating_add(u64::try_from(part.len()).unwrap_or(0));
                    Ok(part.len())
                })
                .map_err(own_fault)?;
            transfer
                .seek_function(|to| match to {
                    SeekFrom::Start(to) => {
                        **offset.borrow_mut() = to;
                        SeekResult::Ok
                    }
                    _ => SeekResult::CantSeek,
                })
                .map_err(own_fault)?;
            transfer.perform()
        };
        if let Err(error) = result {
            if reading.too_long {
                let limit = u64::try_from(MOST_HEAD).unwrap_or(u64::MAX);
                return Err(FetchError::TooLarge(limit));
            }
            return Err(failed(&error));
        }
        if let Some(head) = reading.finish() {
            let _left = self.events.send(Event::Head(head));
        }
        let redirect = easy.redirect_url().ok().flatten();
        Ok(redirect.map(str::to_owned))
    }

    fn prepare(&self, easy: &mut Easy, left: Duration) -> Result<(), curl::Error> {
        // To libcurl zero means no limit.
        let left = left.max(Duration::from_millis(1));
        easy.url(&self.address)?;
        // As it was compared with the list.
        easy.path_as_is(true)?;
        easy.follow_location(false)?;
        easy.connect_timeout(CONNECT.min(left))?;
        easy.timeout(left)?;
        easy.buffer_size(PART)?;
        easy.tcp_nodelay(true)?;
        easy.http_09_allowed(false)?;
        easy.ssl_verify_host(self.verify_host)?;
        easy.forbid_reuse(self.private)?;
        easy.fresh_connect(self.private)?;
        if self.permit.is_some() {
            easy.proxy("")?;
        }
        match self.socket.as_deref() {
            None => {}
            Some(socket) => match socket.strip_prefix('@') {
                Some(name) => easy.abstract_unix_socket(name.as_bytes())?,
                None => easy.unix_socket(socket)?,
            },
        }
        match self.method {
            Method::Get => easy.get(true)?,
            Method::Head => easy.nobody(true)?,
            Method::Post(len) => {
                easy.post(true)?;
                easy.post_field_size(len)?;
            }
        }
        let mut list = List::new();
        for field in &self.fields {
            list.append(field)?;
        }
        // A second of waiting for a 100 is no good where all of it takes eight at most.
        list.append("Expect:")?;
        easy.http_headers(list)
    }
}

/// The head of an answer as it comes in. Interim answers (100, 103) come before.
#[derive(Default)]
struct Reading {
    head: Head,
    done: bool,
    too_long: bool,
}

impl Reading {
    fn line(&mut self, line: &[u8]) -> bool {
        if self.done {
            // A trailer.
            return true;
        }
        if let Some(status) = status_of(line) {
            self.head = Head {
                status,
                ..Head::default()
            };
        }
        if self.head.text.len().saturating_add(line.len()) > MOST_HEAD {
            self.too_long = true;
            return false;
        }
        self.head.text.extend_from_slice(line);
        if let Some(value) = value_of(line, b"content-type") {
            self.head.content_type = value.to_vec();
        } else if let Some(value) = value_of(line, b"content-length") {
            let digits = std::str::from_utf8(value).ok();
            self.head.content_length = digits.and_then(|digits| digits.parse().ok());
        } else if value_of(line, b"location").is_some() {
            self.head.redirects = matches!(self.head.status, 301..=303 | 307 | 308);
        }
        true
    }

    /// The head, once.
    fn finish(&mut self) -> Option<Head> {
        if self.done {
            return None;
        }
        self.done = true;
        Some(std::mem::take(&mut self.head))
    }
}

fn status_of(line: &[u8]) -> Option<u16> {
    if !line.starts_with(b"HTTP/") {
        return None;
    }
    let status = line.split(|&byte| byte == b' ').nth(1)?.get(..3)?;
    std::str::from_utf8(status).ok()?.parse().ok()
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (begin, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    begin.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn own_fault(error: curl::Error) -> FetchError {
    FetchError::Host(error.to_string())
}

fn failed(error: &curl::Error) -> FetchError {
    match error.code() {
        TIMED_OUT => FetchError::TimedOut,
        code => FetchError::Transfer {
            code,
            text: error
                .extra_description()
                .unwrap_or_else(|| error.description())
                .to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_that_of_the_last_answer_and_without_trailers() {
        let mut reading = Reading::default();
        for line in [
            "HTTP/1.1 100 Continue\r\n",
            "X: 1\r\n",
            "\r\n",
            "HTTP/1.1 200 OK\r\n",
            "Content-TYPE:  text/plain \r\n",
            "Content-Length: 12\r\n",
            "\r\n",
        ] {
            assert!(reading.line(line.as_bytes()));
        }
        let head = reading.finish().unwrap();
        assert!(reading.line(b"Content-Type: trailer\r\n"));
        assert_eq!((head.status, head.content_length), (200, Some(12)));
        assert_eq!(head.content_type, b"text/plain");
        assert!(head.text.starts_with(b"HTTP/1.1 200 OK\r\nContent-TYPE"));
        assert!(head.text.ends_with(b"\r\n\r\n"));
        assert_eq!(reading.finish(), None);
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let mut reading = Reading::default();
        let line = format!("X: {}\r\n", "x".repeat(1000));
        let lines = (0..1000)
            .take_while(|_| reading.line(line.as_bytes()))
            .count();
        assert!(lines * line.len() <= MOST_HEAD);
        assert!(reading.too_long);
    }
}
