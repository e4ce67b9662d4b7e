//! One request and its answer, by libcurl, on a thread of the crew. What comes in goes to whoever
//! waits for it in bounded parts; what goes out is asked for in parts.
//!
//! Guards: only the address that was given is asked, nothing is followed, no proxy stands before
//! this Varnish; a transfer ends with its owner (`tie.rs`), or at its deadline.

use std::io::SeekFrom;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use curl::easy::{Easy2, Handler, List, ReadError, SeekResult, WriteError};
use curl::multi::{Easy2Handle, Multi};

use super::FetchError;
use super::home::Permit;
use super::share::Share;
use super::tie::Owned;

const CONNECT: Duration = Duration::from_secs(5);
/// Status line and fields of one answer.
const MOST_HEAD: usize = 64 << 10;
/// libcurl's buffer, and so the most that one part has.
const PART: usize = 64 << 10;
const TIMED_OUT: u32 = 28;
/// libcurl has timers of its own for all that it waits for.
const LONGEST_POLL: Duration = Duration::from_secs(60);

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
    /// A program ordered it, among whose transfers it counts.
    #[expect(dead_code, reason = "held, not looked at")]
    pub(super) share: Option<Share>,
    pub(super) method: Method,
    pub(super) fields: Vec<String>,
    pub(super) verify_host: bool,
    /// The connection is for this request alone.
    pub(super) private: bool,
    pub(super) deadline: Instant,
    pub(super) tie: Owned,
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
    pub(super) fn carry_out(self, multi: &Multi) -> Done {
        let result = self.run(multi);
        Done {
            events: self.events,
            result,
        }
    }

    fn run(&self, multi: &Multi) -> Result<Option<String>, FetchError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(FetchError::TimedOut);
        }
        let mut easy = Easy2::new(Carrying {
            order: self,
            reading: Reading::default(),
            sent: 0,
        });
        self.prepare(&mut easy, left).map_err(own_fault)?;
        let mut handle = multi.add2(easy).map_err(own_fault)?;
        let result = self.perform(multi, &handle)?;
        let reading = &mut handle.get_mut().reading;
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
        let redirect = handle.redirect_url().ok().flatten();
        Ok(redirect.map(str::to_owned))
    }

    /// What libcurl says when it is done; nothing of the sort if the owner leaves before.
    fn perform(
        &self,
        multi: &Multi,
        handle: &Easy2Handle<Carrying<'_>>,
    ) -> Result<Result<(), curl::Error>, FetchError> {
        self.tie.wakes(multi.waker());
        while multi.perform().map_err(own_fault)? > 0 {
            if self.tie.has_left() {
                return Err(FetchError::Host("nobody waits any more".to_owned()));
            }
            multi.poll(&mut [], LONGEST_POLL).map_err(own_fault)?;
        }
        let mut result = None;
        multi.messages(|message| result = result.take().or_else(|| message.result_for2(handle)));
        result.ok_or_else(|| FetchError::Host("libcurl says nothing of its end".to_owned()))
    }

    fn prepare(&self, easy: &mut Easy2<Carrying<'_>>, left: Duration) -> Result<(), curl::Error> {
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

/// What libcurl calls. Nothing here may panic: curl would keep that to itself, and call nothing any
/// more on this thread.
struct Carrying<'a> {
    order: &'a Order,
    reading: Reading,
    /// Of the request body.
    sent: u64,
}

impl Handler for Carrying<'_> {
    fn header(&mut self, line: &[u8]) -> bool {
        self.reading.line(line)
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        let events = &self.order.events;
        let head = self.reading.finish();
        let told = head.is_none_or(|head| events.send(Event::Head(head)).is_ok());
        let whole = told && events.send(Event::Body(data.to_vec())).is_ok();
        // Fewer bytes than there were end the transfer.
        Ok(if whole { data.len() } else { 0 })
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, ReadError> {
        let wants = Event::Wants {
            offset: self.sent,
            room: out.len(),
        };
        let order = self.order;
        let told = order.events.send(wants).ok();
        let part = told
            .and_then(|()| order.parts.recv().ok())
            .ok_or(ReadError::Abort)?;
        let place = out.get_mut(..part.len()).ok_or(ReadError::Abort)?;
        place.copy_from_slice(&part);
        let len = u64::try_from(part.len()).unwrap_or(0);
        self.sent = self.sent.saturating_add(len);
        Ok(part.len())
    }

    fn seek(&mut self, to: SeekFrom) -> SeekResult {
        match to {
            SeekFrom::Start(to) => {
                self.sent = to;
                SeekResult::Ok
            }
            _ => SeekResult::CantSeek,
        }
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

fn own_fault(error: impl std::fmt::Display) -> FetchError {
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
