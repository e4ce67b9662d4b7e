//! One GET over HTTP or HTTPS, by libcurl. Redirects are followed here and not by libcurl: each
//! target is looked at first.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use curl::easy::{Easy, List};

use super::date::http_date;
use super::{Limits, LoadError};

const MOST_REDIRECTS: usize = 5;

/// What an asker has already; with nothing of it, everything is wanted.
#[derive(Debug, Default)]
pub(super) struct Has<'a> {
    pub(super) modified: Option<SystemTime>,
    pub(super) etag: Option<&'a str>,
}

/// What a server says.
#[derive(Debug)]
pub(super) enum Answer {
    /// All of it went into the sink.
    Whole(About),
    /// The asker has it.
    Unchanged,
}

/// What an answer says of its body.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) modified: Option<SystemTime>,
    pub(super) etag: Option<String>,
}

/// Where a body goes.
pub(super) trait Sink {
    /// What came so far belongs to an answer that does not count.
    fn restart(&mut self) -> io::Result<()>;
    fn take(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Sink for Vec<u8> {
    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

pub(super) fn is_http(uri: &str) -> bool {
    is(uri, "http://") || is_https(uri)
}

fn is_https(uri: &str) -> bool {
    is(uri, "https://")
}

fn is(uri: &str, scheme: &str) -> bool {
    uri.get(..scheme.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
}

/// An address as logs may show it: without user name and password.
pub fn shown(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(host_end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// Asks for `uri`, unless it is what the asker `has`.
pub(super) fn get(
    uri: &str,
    has: &Has<'_>,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<Answer, LoadError> {
    let deadline = Instant::now() + limits.total;
    let mut conditions = Vec::new();
    if let Some(date) = has.modified.and_then(http_date) {
        conditions.push(format!("If-Modified-Since: {date}"));
    }
    if let Some(etag) = has.etag {
        conditions.push(format!("If-None-Match: {etag}"));
    }
    let mut target = uri.to_owned();
    for _ in 0..=MOST_REDIRECTS {
        let left = deadline.saturating_duration_since(Instant::now());
        let reply = ask(&target, &conditions, left, limits, sink)?;
        let status = |status| {
            Err(LoadError::Status {
                uri: shown(&target),
                status,
            })
        };
        match reply.status {
            200 => return Ok(Answer::Whole(reply.about)),
            304 if !conditions.is_empty() => return Ok(Answer::Unchanged),
            301 | 302 | 303 | 307 | 308 => {
                let Some(next) = reply.redirect else {
                    return status(reply.status);
                };
                if !is_http(&next) || (is_https(&target) && !is_https(&next)) {
                    return Err(LoadError::Redirect {
                        uri: shown(&target),
                        to: shown(&next),
                    });
                }
                target = next;
            }
            other => return status(other),
        }
    }
    Err(LoadError::Redirects {
        uri: shown(uri),
        limit: MOST_REDIRECTS,
    })
}

struct Reply {
    status: u32,
    about: About,
    redirect: Option<String>,
}

fn ask(
    uri: &str,
    conditions: &[String],
    left: Duration,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<Reply, LoadError> {
    let mut len = 0_u64;
    let mut too_long = false;
    let mut etag = None;
    let mut kept = sink.restart();
    let mut easy = Easy::new();
    let result = prepare(&mut easy, uri, conditions, left, limits).and_then(|()| {
        let mut transfer = easy.transfer();
        transfer.header_function(|line| {
            etag = etag.take().or_else(|| etag_in(line));
            true
        })?;
        transfer.write_function(|data| {
            len = len.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            too_long = len > limits.max_bytes;
            if kept.is_ok() && !too_long {
                kept = sink.take(data);
            }
            // Fewer bytes than there were end the transfer.
            Ok(if kept.is_ok() && !too_long {
                data.len()
            } else {
                0
            })
        })?;
        transfer.perform()
    });
    if let Err(source) = kept {
        return Err(LoadError::Write {
            uri: shown(uri),
            source,
        });
    }
    if let Err(error) = result {
        if too_long || error.is_filesize_exceeded() {
            return Err(LoadError::TooLong {
                from: shown(uri),
                limit: limits.max_bytes,
            });
        }
        let reason = error
            .extra_description()
            .unwrap_or_else(|| error.description())
            .to_owned();
        return Err(LoadError::Down {
            uri: shown(uri),
            reason,
        });
    }
    let down = |error: curl::Error| LoadError::Down {
        uri: shown(uri),
        reason: error.description().to_owned(),
    };
    let modified = easy
        .filetime()
        .map_err(down)?
        .and_then(|seconds| u64::try_from(seconds).ok());
    Ok(Reply {
        status: easy.response_code().map_err(down)?,
        about: About {
            modified: modified
                .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
            etag,
        },
        redirect: easy.redirect_url().ok().flatten().map(str::to_owned),
    })
}

/// The value of an ETag field that can be sent back as it is.
fn etag_in(line: &[u8]) -> Option<String> {
    const LONGEST: usize = 256;
    let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    let value = value.trim();
    let quoted = value.strip_prefix("W/").unwrap_or(value);
    let fits = name.eq_ignore_ascii_case("etag")
        && value.len() <= LONGEST
        && quoted.len() >= 2
        && quoted.starts_with('"')
        && quoted.ends_with('"')
        && value.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| value.to_owned())
}

fn prepare(
    easy: &mut Easy,
    uri: &str,
    conditions: &[String],
    left: Duration,
    limits: &Limits,
) -> Result<(), curl::Error> {
    // To libcurl zero means no limit.
    let least = Duration::from_millis(1);
    easy.url(uri)?;
    easy.get(true)?;
    easy.follow_location(false)?;
    easy.connect_timeout(limits.connect.min(left).max(least))?;
    easy.timeout(left.max(least))?;
    easy.low_speed_limit(1)?;
    easy.low_speed_time(limits.stalled)?;
    easy.max_filesize(limits.max_bytes)?;
    easy.fetch_filetime(true)?;
    easy.useragent(concat!("libvmod-tinykvm/", env!("CARGO_PKG_VERSION")))?;
    if !conditions.is_empty() {
        let mut fields = List::new();
        for condition in conditions {
            fields.append(condition)?;
        }
        easy.http_headers(fields)?;
    }
    Ok(())
}
