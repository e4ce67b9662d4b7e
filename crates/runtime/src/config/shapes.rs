//! Values with a form of their own: remapped areas, allowed paths, downloads, servers, warm-up,
//! hashes, addresses.

use serde_json::Value;

use super::error::{ConfigError, cut};
use super::keys;
use super::program::{ProgramConfig, Secret};
use super::settings::{Access, Download, PathRule, Remapping, Server, Settings, Warmup};
use super::table::{Reading, whole};
use crate::outgoing::FetchRule;

type Result<T> = std::result::Result<T, ConfigError>;

const MIB: u64 = 1 << 20;
/// Below are the pages of the sandbox itself.
const LOWEST_REMAPPING: u64 = 0x20000;
/// Behind the last address of user space.
const END_OF_ADDRESSES: u64 = 0x7fff_ffff_f000;

pub(super) const AREA: &str =
    "[\"0xADDRESS\", size in MiB or \"0xEND\"], or an object of such pairs by name";

pub(super) fn remapping(value: &Value, out: &mut Settings, at: &mut Reading<'_>) -> Result<()> {
    areas(value, out, Access::ReadWrite, at)
}

pub(super) fn executable(value: &Value, out: &mut Settings, at: &mut Reading<'_>) -> Result<()> {
    areas(value, out, Access::ReadWriteExecute, at)
}

pub(super) fn blackout(value: &Value, out: &mut Settings, at: &mut Reading<'_>) -> Result<()> {
    areas(value, out, Access::Nothing, at)
}

fn areas(value: &Value, out: &mut Settings, access: Access, at: &mut Reading<'_>) -> Result<()> {
    match value {
        Value::Array(_) => out.remappings.push(area(value, access, at)?),
        Value::Object(named) => {
            for (name, value) in super::table::sorted(named) {
                let area = at.within(name, |at| area(value, access, at))?;
                out.remappings.push(area);
            }
        }
        _ => return Err(at.unfit(AREA, value)),
    }
    Ok(())
}

fn area(value: &Value, access: Access, at: &mut Reading<'_>) -> Result<Remapping> {
    let Some([address, size]) = value.as_array().map(Vec::as_slice) else {
        let got = cut(&value.to_string()).to_owned();
        return Err(at.unfit_text("[\"0xADDRESS\", size in MiB or \"0xEND\"]", got));
    };
    let begin = hex(address)
        .filter(|address| (LOWEST_REMAPPING..END_OF_ADDRESSES).contains(address))
        .ok_or_else(|| {
            let expected = "a hexadecimal string from \"0x20000\" to \"0x7fffffffefff\"";
            at.element(0, |at| at.unfit(expected, address))
        })?;
    let bytes = match size {
        Value::String(_) => hex(size)
            .and_then(|end| end.checked_sub(begin))
            .map(|b| b / MIB * MIB),
        _ => whole(size).and_then(|mib| mib.checked_mul(MIB)),
    };
    let bytes = bytes
        .filter(|bytes| {
            begin
                .checked_add(*bytes)
                .is_some_and(|end| end <= END_OF_ADDRESSES)
        })
        .ok_or_else(|| {
            let expected =
                "a number of MiB, or the end as a hexadecimal string not below the address";
            at.element(1, |at| at.unfit(expected, size))
        })?;
    Ok(Remapping {
        address: begin,
        size: bytes,
        access,
    })
}

fn hex(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    // from_str_radix would take a sign.
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

pub(super) const FETCHES: &str = "a list of addresses like \"https://example.com\" or \"https://example.com/path/\", or of \"*\"";

const FETCH: &str =
    "an address like \"https://example.com\" or \"https://example.com/path/\", or \"*\"";

pub(super) fn allowed_fetch(value: &Value, out: &mut Settings, at: &mut Reading<'_>) -> Result<()> {
    at.each(value, FETCHES, |at, value| {
        let text = at.text(value, true)?;
        let rule = FetchRule::parse(&text)
            .map_err(|flaw| at.unfit_text(FETCH, format!("{:?}: {flaw}", cut(&text))))?;
        if !out.allowed_fetch.contains(&rule) {
            out.allowed_fetch.push(rule);
        }
        Ok(())
    })
}

pub(super) const PATHS: &str = "a list of paths and of objects with \"real\"";

pub(super) fn allowed_paths(value: &Value, out: &mut Settings, at: &mut Reading<'_>) -> Result<()> {
    at.each(value, PATHS, |at, value| {
        out.allowed_paths.push(path_rule(value, at)?);
        Ok(())
    })
}

fn path_rule(value: &Value, at: &mut Reading<'_>) -> Result<PathRule> {
    let mut rule = PathRule::default();
    match value {
        Value::String(_) => rule.real = at.text(value, true)?,
        Value::Object(object) => {
            at.object(keys::PATH_RULE, object, &mut rule)?;
            // A link is only looked at where nothing is said about writing.
            rule.symlink &= !object.contains_key("writable");
        }
        _ => return Err(at.unfit("a path or an object with \"real\"", value)),
    }
    if rule.real.is_empty() {
        return Err(at.unfit("a path that is not empty as \"real\"", value));
    }
    // A link may well be to a name beside it.
    if !rule.symlink {
        at.note_path(&rule.real);
    }
    if rule.virtual_path.is_empty() {
        rule.virtual_path.clone_from(&rule.real);
    }
    if rule.symlink && rule.real == rule.virtual_path {
        return Err(at.unfit("a link whose \"virtual\" is not its \"real\"", value));
    }
    Ok(rule)
}

pub(super) const DOWNLOADS: &str = "a list of objects with \"uri\" and \"filepath\"";

pub(super) fn downloads(value: &Value, out: &mut Settings, at: &mut Reading<'_>) -> Result<()> {
    at.each(value, DOWNLOADS, |at, value| {
        let Value::Object(object) = value else {
            return Err(at.unfit("an object with \"uri\" and \"filepath\"", value));
        };
        let mut download = Download::default();
        at.object(keys::DOWNLOAD, object, &mut download)?;
        if download.uri.is_empty() || download.filepath.is_empty() {
            return Err(at.unfit("\"uri\" and \"filepath\"", value));
        }
        out.download.push(download);
        Ok(())
    })
}

pub(super) fn download_filepath(
    value: &Value,
    out: &mut Download,
    at: &mut Reading<'_>,
) -> Result<()> {
    out.filepath = at.text(value, false)?;
    at.note_path(&out.filepath);
    Ok(())
}

pub(super) fn download_uri(value: &Value, out: &mut Download, at: &mut Reading<'_>) -> Result<()> {
    out.uri = address(value, at)?;
    Ok(())
}

pub(super) fn download_sha256(
    value: &Value,
    out: &mut Download,
    at: &mut Reading<'_>,
) -> Result<()> {
    out.sha256 = hash(value, at)?;
    Ok(())
}

pub(super) const SERVER: &str = "an object with \"port\" or \"path\"";

pub(super) fn server(value: &Value, out: &mut Settings, at: &mut Reading<'_>) -> Result<()> {
    let server = read_server(value, at, SERVER)?;
    if server.port.is_none() && server.path.is_empty() {
        return Err(at.unfit(SERVER, value));
    }
    out.server = Some(server);
    Ok(())
}

pub(super) const WEBSOCKET_SERVER: &str = "an object with \"port\"";

pub(super) fn websocket_server(
    value: &Value,
    out: &mut Settings,
    at: &mut Reading<'_>,
) -> Result<()> {
    let server = read_server(value, at, WEBSOCKET_SERVER)?;
    if server.port.is_none() {
        return Err(at.unfit(WEBSOCKET_SERVER, value));
    }
    out.websocket_server = Some(server);
    Ok(())
}

fn read_server(value: &Value, at: &mut Reading<'_>, expects: &str) -> Result<Server> {
    let Value::Object(object) = value else {
        return Err(at.unfit(expects, value));
    };
    let mut server = Server::default();
    at.object(keys::SERVER, object, &mut server)?;
    Ok(server)
}

pub(super) const PORT: &str = "a number from 1 to 65535";

pub(super) fn port(value: &Value, out: &mut Server, at: &mut Reading<'_>) -> Result<()> {
    let port = whole(value)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|&port| port > 0);
    out.port = Some(port.ok_or_else(|| at.unfit(PORT, value))?);
    Ok(())
}

pub(super) fn warmup(value: &Value, out: &mut Settings, at: &mut Reading<'_>) -> Result<()> {
    let Value::Object(object) = value else {
        return Err(at.unfit("an object", value));
    };
    let mut warmup = Warmup::default();
    at.object(keys::WARMUP, object, &mut warmup)?;
    out.warmup = Some(warmup);
    Ok(())
}

pub(super) const HEADERS: &str = "a list of strings \"Name: value\"";

pub(super) fn headers(value: &Value, out: &mut Warmup, at: &mut Reading<'_>) -> Result<()> {
    at.each(value, HEADERS, |at, value| {
        let header = value.as_str().filter(|text| {
            let named = text
                .split_once(':')
                .is_some_and(|(name, _)| !name.is_empty());
            named && !text.contains(char::is_control)
        });
        let header = header.ok_or_else(|| at.unfit("a string \"Name: value\"", value))?;
        out.headers.insert(header.into());
        Ok(())
    })
}

pub(super) const VARIABLES: &str = "a list of strings \"NAME=value\"";

pub(super) fn environment(value: &Value, out: &mut Settings, at: &mut Reading<'_>) -> Result<()> {
    at.each(value, VARIABLES, |at, value| {
        let text = at.text(value, true)?;
        if text.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return Err(at.unfit("\"NAME=value\"", &Value::String(text)));
        }
        out.environment.push(text);
        Ok(())
    })
}

pub(super) const ABSOLUTE: &str = "a path that begins with /";

pub(super) fn working_directory(
    value: &Value,
    out: &mut Settings,
    at: &mut Reading<'_>,
) -> Result<()> {
    let path = value.as_str().map(|_| at.text(value, true)).transpose()?;
    let path = path
        .filter(|path| path.starts_with('/'))
        .ok_or_else(|| at.unfit(ABSOLUTE, value))?;
    out.current_working_directory = path;
    Ok(())
}

pub(super) const ADDRESS: &str = "an address that begins with http://, https:// or file:///";

pub(super) fn uri(value: &Value, out: &mut ProgramConfig, at: &mut Reading<'_>) -> Result<()> {
    out.uri = match value.as_str() {
        Some("") => None,
        _ => Some(address(value, at)?),
    };
    Ok(())
}

fn address(value: &Value, at: &mut Reading<'_>) -> Result<String> {
    if !value.is_string() {
        return Err(at.unfit(ADDRESS, value));
    }
    let text = at.text(value, false)?;
    let known = ["http://", "https://", "file:///"].iter().any(|scheme| {
        let (begin, rest) = text.split_at_checked(scheme.len()).unwrap_or_default();
        begin.eq_ignore_ascii_case(scheme) && !rest.is_empty()
    });
    if !known || text.contains(char::is_control) {
        return Err(at.unfit(ADDRESS, value));
    }
    Ok(text)
}

pub(super) fn key(value: &Value, out: &mut ProgramConfig, at: &mut Reading<'_>) -> Result<()> {
    let Value::String(text) = value else {
        // The value stays out of the message: it is a secret, if a badly written one.
        return Err(at.unfit_text("a string", "something else".into()));
    };
    out.key = Secret::new(text.clone());
    Ok(())
}

pub(super) const SHA256: &str = "64 hexadecimal digits";
pub(super) const MD5: &str = "32 hexadecimal digits";

pub(super) fn sha256(value: &Value, out: &mut ProgramConfig, at: &mut Reading<'_>) -> Result<()> {
    out.sha256 = hash(value, at)?;
    Ok(())
}

/// An empty string is no hash.
fn hash(value: &Value, at: &Reading<'_>) -> Result<Option<[u8; 32]>> {
    let text = value.as_str().ok_or_else(|| at.unfit(SHA256, value))?;
    if text.is_empty() {
        return Ok(None);
    }
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(at.unfit(SHA256, value));
    }
    for (place, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *place = u8::from_str_radix(digits, 16).map_err(|_| at.unfit(SHA256, value))?;
    }
    Ok(Some(hash))
}

/// Looked at, not kept.
pub(super) fn md5<T>(value: &Value, _: &mut T, at: &mut Reading<'_>) -> Result<()> {
    let text = value.as_str().ok_or_else(|| at.unfit(MD5, value))?;
    if text.is_empty() || (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Ok(());
    }
    Err(at.unfit(MD5, value))
}
