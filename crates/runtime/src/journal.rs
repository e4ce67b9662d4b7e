//! What is to be said outside of any request: programs that start, fail to start, are replaced,
//! and what their `main()` prints. The VMOD sends it to the Varnish log, the command line to
//! standard error, tests may listen. Nobody listening is fine: nothing is buffered.

use std::borrow::Cow;
use std::sync::OnceLock;

use crate::exchange::Severity;

type Sink = Box<dyn Fn(Severity, &str, &[u8]) + Send + Sync>;

static SINK: OnceLock<Sink> = OnceLock::new();

/// Where lines go from now on: severity, program, line. The first call of the process wins.
pub fn listen(sink: impl Fn(Severity, &str, &[u8]) + Send + Sync + 'static) {
    let _already_set = SINK.set(Box::new(sink));
}

/// A line as it may be shown: what is not text could end it and begin another, of somebody else's, or
/// steer a terminal.
pub fn printable(line: &[u8]) -> Cow<'_, [u8]> {
    let steers = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    if !line.iter().any(steers) {
        return Cow::Borrowed(line);
    }
    line.iter()
        .map(|byte| if steers(byte) { b'?' } else { *byte })
        .collect()
}

/// One line to the standard output of this process. Callers bound how many a guest can cause.
pub(crate) fn print(line: &[u8]) {
    use std::io::Write as _;
    let mut line = printable(line).into_owned();
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    // Nobody may be there to read it.
    let _lost = out.write_all(&line).and_then(|()| out.flush());
}

/// One line about a program. Callers bound how many a guest can cause.
pub(crate) fn say(severity: Severity, program: &str, line: &[u8]) {
    if let Some(sink) = SINK.get() {
        sink(severity, program, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_and_steers_no_terminal() {
        let forged = b"/\n-  VCL_Log  victim: fine\r\x1b[2J\x7f\0";
        assert_eq!(
            printable(forged).as_ref(),
            b"/?-  VCL_Log  victim: fine??[2J??"
        );
        let text = "tab\t and \u{e4}".as_bytes();
        assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
    }
}
