//! One GET over HTTP or HTTPS, by libcurl. Redirects are followed here and not by libcurl: each
//! target is looked at first.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use curl::easy::{Easy, List};

use super::date::http_date;
use super::{Limits, LoadError};

const MOST_REDIRECTS: usize = 5;

/// What a server, or a file, says.
#[derive(Debug)]
pub(super) enum Answer {
    Whole {
        bytes: Vec<u8>,
        modified: Option<SystemTime>,
    },
    /// It is as old as the asker's.
    Unchanged,
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

/// Asks for `uri`; with `since` only for something newer.
pub(super) fn get(
    uri: &str,
    since: Option<SystemTime>,
    limits: &Limits,
) -> Result<Answer, LoadError> {
    let deadline = Instant::now() + limits.total;
    let since = since.and_then(http_date);
    let mut target = uri.to_owned();
    for _ in 0..=MOST_REDIRECTS {
        let left = deadline.saturating_duration_since(Instant::now());
        let reply = ask(&target, since.as_deref(), left, limits)?;
        let status = |status| {
            Err(LoadError::Status {
                uri: shown(&target),
                status,
            })
        };
        match reply.status {
            200 => {
                return Ok(Answer::Whole {
                    bytes: reply.body,
                    modified: reply.modified,
                });
            }
            304 if since.is_some() => return Ok(Answer::Unchanged),
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
    body: Vec<u8>,
    modified: Option<SystemTime>,
    redirect: Option<String>,
}

fn ask(
    uri: &str,
    since: Option<&str>,
    left: Duration,
    limits: &Limits,
) -> Result<Reply, LoadError> {
    let mut body = Vec::new();
    let mut too_long = false;
    let mut easy = Easy::new();
    let result = prepare(&mut easy, uri, since, left, limits).and_then(|()| {
        let mut transfer = easy.transfer();
        transfer.write_function(|data| {
            let len = u64::try_from(body.len() + data.len()).unwrap_or(u64::MAX);
            if len > limits.max_bytes {
                too_long = true;
                // Fewer bytes than there were end the transfer.
                return Ok(0);
            }
            body.extend_from_slice(data);
            Ok(data.len())
        })?;
        transfer.perform()
    });
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
        body,
        modified: modified.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
        redirect: easy.redirect_url().ok().flatten().map(str::to_owned),
    })
}

fn prepare(
    easy: &mut Easy,
    uri: &str,
    since: Option<&str>,
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
    if let Some(date) = since {
        let mut fields = List::new();
        fields.append(&format!("If-Modified-Since: {date}"))?;
        easy.http_headers(fields)?;
    }
    Ok(())
}
