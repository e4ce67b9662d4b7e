//! An HTTP transaction in memory, for tests and the command line.

use crate::exchange::{Cacheability, Deadline, Exchange, FieldError, Severity, Side};
use crate::outgoing::Outgoing;

/// A transaction whose tables are vectors.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub method: Vec<u8>,
    pub request: Vec<Vec<u8>>,
    pub response: Vec<Vec<u8>>,
    pub cacheability: Option<Cacheability>,
    pub log: Vec<(Severity, Vec<u8>)>,
    /// Entries that each table can hold.
    pub max_fields: usize,
    /// When whoever causes it stops waiting.
    pub deadline: Option<Deadline>,
    /// Where requests go that it causes.
    pub outgoing: Outgoing,
}

impl Recorded {
    pub fn new(method: &str, fields: &[&str]) -> Self {
        Self {
            method: method.as_bytes().to_vec(),
            request: fields.iter().map(|f| f.as_bytes().to_vec()).collect(),
            response: Vec::new(),
            cacheability: None,
            log: Vec::new(),
            max_fields: 64,
            deadline: None,
            outgoing: Outgoing::default(),
        }
    }

    /// All log lines as one text.
    pub fn log_text(&self) -> String {
        let mut text = String::new();
        for (_, line) in &self.log {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text
    }

    /// The value of a response field.
    pub fn response_field(&self, name: &str) -> Option<String> {
        let field = self.find(Side::Response, name.as_bytes())?;
        let value = field.get(name.len().checked_add(1)?..)?;
        Some(String::from_utf8_lossy(value).trim_start().to_owned())
    }

    fn table(&self, side: Side) -> &Vec<Vec<u8>> {
        match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        }
    }

    fn table_mut(&mut self, side: Side) -> &mut Vec<Vec<u8>> {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    fn position(&self, side: Side, name: &[u8]) -> Option<usize> {
        self.table(side)
            .iter()
            .position(|field| name_of(field).eq_ignore_ascii_case(name))
    }
}

fn name_of(field: &[u8]) -> &[u8] {
    field.split(|&b| b == b':').next().unwrap_or_default()
}

fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl Exchange for Recorded {
    fn visit_request_headers(&self, visit: &mut dyn FnMut(&[u8])) {
        for field in &self.request {
            visit(field);
        }
    }

    fn method(&self) -> &[u8] {
        &self.method
    }

    fn find(&self, side: Side, name: &[u8]) -> Option<&[u8]> {
        let at = self.position(side, name)?;
        self.table(side).get(at).map(Vec::as_slice)
    }

    fn append(&mut self, side: Side, field: &[u8]) -> Result<u32, FieldError> {
        let max = self.max_fields;
        let table = self.table_mut(side);
        if table.len() >= max {
            return Err(FieldError::Full);
        }
        table.push(field.to_vec());
        Ok(index(table.len() - 1))
    }

    fn set(&mut self, side: Side, field: &[u8]) -> Result<u32, FieldError> {
        let Some(at) = self.position(side, name_of(field)) else {
            return self.append(side, field);
        };
        if let Some(entry) = self.table_mut(side).get_mut(at) {
            *entry = field.to_vec();
        }
        Ok(index(at))
    }

    fn unset(&mut self, side: Side, name: &[u8]) -> u32 {
        let Some(at) = self.position(side, name) else {
            return 0;
        };
        self.table_mut(side).remove(at);
        index(at)
    }

    fn set_cacheable(&mut self, how: Cacheability) -> bool {
        self.cacheability = Some(how);
        true
    }

    fn forget_lifetime(&mut self) {
        self.cacheability = self.cacheability.and_then(Cacheability::of_replaced);
    }

    fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    fn outgoing(&self) -> Outgoing {
        self.outgoing.clone()
    }

    fn log(&mut self, severity: Severity, line: &[u8]) {
        self.log.push((severity, line.to_vec()));
    }
}
