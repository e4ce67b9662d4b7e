//! A request as the guest gets it: one block in the VM's request area that holds, in this order,
//! the NUL-terminated strings, the header array and `struct tinykvm_request`.
//!
//! Guards: every length field holds the true length. What does not fit its 16 bits, and more
//! headers than the ABI allows, is an error and never cut: a guest that decides about access must
//! not see half a request.

use sandbox::GuestVirt;
use tinykvm_sys::{abi, bytes_of};

use crate::exchange::Exchange;

/// What a layout keeps room for from one request to the next.
const KEEP: usize = 16 << 10;
const WARMING: u16 = 1;
const _: () = assert!(abi::TINYKVM_REQUEST_WARMUP == 1);
const MAX_HEADERS: usize = abi::TINYKVM_MAX_REQUEST_HEADERS as usize;

/// What VCL asks a program, besides the header fields of the transaction.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a [u8],
    pub url: &'a [u8],
    /// Free text from VCL.
    pub argument: &'a [u8],
    /// The guest sees it only together with a body.
    pub content_type: &'a [u8],
}

/// Where the body lies in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) at: GuestVirt,
    pub(crate) len: u64,
}

/// Why a request cannot be shown to a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooBig {
    #[error("the request has more than {MAX_HEADERS} header fields")]
    Headers,
    #[error("the request's {what} has {len} bytes, more than a guest can be told of")]
    Text { what: &'static str, len: usize },
}

/// Lays requests out. Lives in a slot, so that its buffers are allocated once.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    block: Vec<u8>,
    fields: Vec<FieldPlace>,
    flags: u16,
}

#[derive(Debug, Clone, Copy)]
struct FieldPlace {
    offset: usize,
    len: u32,
    colon: u32,
}

/// Offsets of the four strings that every way of delivery needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strings {
    method: usize,
    url: usize,
    argument: usize,
    content_type: usize,
}

/// Addresses of what a callback gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) url: u64,
    pub(crate) argument: u64,
    pub(crate) content_type: u64,
}

impl Strings {
    pub(crate) fn at(self, base: GuestVirt) -> Addresses {
        Addresses {
            url: address(base, self.url),
            argument: address(base, self.argument),
            content_type: address(base, self.content_type),
        }
    }
}

impl Layout {
    /// The strings alone, for callbacks that take them as arguments.
    pub(crate) fn strings(&mut self, request: &Request<'_>) -> Strings {
        self.block.clear();
        self.fields.clear();
        Strings {
            method: self.push(request.method),
            url: self.push(request.url),
            argument: self.push(request.argument),
            content_type: self.push(request.content_type),
        }
    }

    /// Adds the header fields behind the strings.
    pub(crate) fn headers(&mut self, exchange: &dyn Exchange) -> Result<(), TooBig> {
        let mut result = Ok(());
        exchange.visit_request_headers(&mut |field| {
            if result.is_ok() {
                result = self.push_field(field);
            }
        });
        result
    }

    /// A layout whose requests say that they are for warming up.
    pub(crate) fn for_warming() -> Self {
        Self {
            flags: WARMING,
            ..Self::default()
        }
    }

    /// Forgets the request; buffers that a big one made grow are given back.
    pub(crate) fn reset(&mut self) {
        let Self {
            block,
            fields,
            flags,
        } = self;
        *flags = 0;
        block.clear();
        block.shrink_to(KEEP);
        fields.clear();
    }

    /// Bytes that the block has so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.block
    }

    /// Bytes that the block is going to have with header array and structure.
    pub(crate) fn complete_len(&self) -> usize {
        align(self.block.len())
            + self.fields.len() * size_of::<abi::tinykvm_request_header>()
            + size_of::<abi::tinykvm_request>()
    }

    /// Completes the block with header array and structure for a block that is going to lie at
    /// `base`. The structure is answered too, and the address that it is going to have.
    pub(crate) fn complete(
        &mut self,
        base: GuestVirt,
        strings: Strings,
        request: &Request<'_>,
        content: Option<Content>,
        random: [u64; 2],
    ) -> Result<(u64, abi::tinykvm_request), TooBig> {
        self.block.resize(align(self.block.len()), 0);
        let headers = self.block.len();
        for field in &self.fields {
            let header = abi::tinykvm_request_header {
                field: address(base, field.offset),
                field_colon: field.colon,
                field_len: field.len,
            };
            self.block.extend_from_slice(bytes_of(&header));
        }
        let shown = abi::tinykvm_request {
            method: address(base, strings.method),
            url: address(base, strings.url),
            arg: address(base, strings.argument),
            content_type: address(base, strings.content_type),
            method_len: short("method", request.method)?,
            url_len: short("URL", request.url)?,
            arg_len: short("argument", request.argument)?,
            content_type_len: short("content type", request.content_type)?,
            content: content.map_or(0, |content| content.at.raw()),
            content_len: content.map_or(0, |content| content.len),
            headers: if self.fields.is_empty() {
                0
            } else {
                address(base, headers)
            },
            num_headers: u16::try_from(self.fields.len()).map_err(|_| TooBig::Headers)?,
            info_flags: self.flags,
            reserved0: 0,
            prng: random,
            reserved1: [0; 2],
        };
        let place = address(base, self.block.len());
        self.block.extend_from_slice(bytes_of(&shown));
        Ok((place, shown))
    }

    fn push(&mut self, text: &[u8]) -> usize {
        let offset = self.block.len();
        self.block.extend_from_slice(text);
        self.block.push(0);
        offset
    }

    fn push_field(&mut self, field: &[u8]) -> Result<(), TooBig> {
        if self.fields.len() >= MAX_HEADERS {
            return Err(TooBig::Headers);
        }
        let too_big = TooBig::Text {
            what: "header field",
            len: field.len(),
        };
        let len = u32::try_from(field.len()).map_err(|_| too_big.clone())?;
        let colon = field.iter().position(|&b| b == b':').unwrap_or(field.len());
        let colon = u32::try_from(colon).map_err(|_| too_big)?;
        let offset = self.push(field);
        self.fields.push(FieldPlace { offset, len, colon });
        Ok(())
    }
}

fn align(len: usize) -> usize {
    len.next_multiple_of(16)
}

/// An address in the block. A block that wraps around cannot be allocated in a guest.
fn address(base: GuestVirt, offset: usize) -> u64 {
    base.raw()
        .wrapping_add(u64::try_from(offset).unwrap_or(u64::MAX))
}

fn short(what: &'static str, text: &[u8]) -> Result<u16, TooBig> {
    u16::try_from(text.len()).map_err(|_| TooBig::Text {
        what,
        len: text.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorded;
    use tinykvm_sys::from_bytes;

    const BASE: GuestVirt = GuestVirt::new(0x40_0000);
    const REQUEST: Request<'static> = Request {
        method: b"POST",
        url: b"/path?x=1",
        argument: b"{}",
        content_type: b"text/plain",
    };

    fn text(block: &[u8], at: u64) -> String {
        let from = usize::try_from(at - BASE.raw()).unwrap();
        let end = block[from..].iter().position(|&b| b == 0).unwrap();
        String::from_utf8(block[from..from + end].to_vec()).unwrap()
    }

    fn build(layout: &mut Layout, fields: &[&str]) -> abi::tinykvm_request {
        let exchange = Recorded::new("POST", fields);
        let strings = layout.strings(&REQUEST);
        layout.headers(&exchange).unwrap();
        let expected = layout.complete_len();
        let content = Some(Content {
            at: GuestVirt::new(0x9000_0000),
            len: 12345,
        });
        let (place, _) = layout
            .complete(BASE, strings, &REQUEST, content, [7, 8])
            .unwrap();
        assert_eq!(layout.bytes().len(), expected);
        let offset = usize::try_from(place - BASE.raw()).unwrap();
        from_bytes(&layout.bytes()[offset..]).unwrap()
    }

    #[test]
    fn the_structure_points_at_its_strings_and_headers() {
        let mut layout = Layout::default();
        let fields = ["Host: example.com", "Accept: */*", "Broken"];
        let shown = build(&mut layout, &fields);
        let block = layout.bytes();
        assert_eq!(text(block, shown.method), "POST");
        assert_eq!(text(block, shown.url), "/path?x=1");
        assert_eq!(text(block, shown.arg), "{}");
        assert_eq!(text(block, shown.content_type), "text/plain");
        assert_eq!((shown.method_len, shown.url_len), (4, 9));
        assert_eq!((shown.arg_len, shown.content_type_len), (2, 10));
        assert_eq!((shown.content, shown.content_len), (0x9000_0000, 12345));
        assert_eq!(shown.prng, [7, 8]);
        assert_eq!(shown.num_headers, 3);
        assert_eq!(shown.headers % 8, 0);
        for (number, field) in fields.iter().enumerate() {
            let at = usize::try_from(shown.headers - BASE.raw()).unwrap() + number * 16;
            let header: abi::tinykvm_request_header = from_bytes(&block[at..]).unwrap();
            assert_eq!(text(block, header.field), *field);
            assert_eq!(usize::try_from(header.field_len).unwrap(), field.len());
            let colon = field.find(':').unwrap_or(field.len());
            assert_eq!(usize::try_from(header.field_colon).unwrap(), colon);
        }
    }

    #[test]
    fn a_layout_keeps_nothing_of_the_request_before() {
        let mut layout = Layout::default();
        build(&mut layout, &["Cookie: secret"]);
        let shown = build(&mut layout, &[]);
        assert_eq!((shown.headers, shown.num_headers), (0, 0));
        assert!(!layout.bytes().windows(6).any(|w| w == b"secret"));
    }

    #[test]
    fn the_65th_header_is_an_error_and_not_cut_off() {
        let fields: Vec<String> = (0..65).map(|n| format!("X-{n}: y")).collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let mut layout = Layout::default();
        layout.strings(&REQUEST);
        assert_eq!(layout.headers(&Recorded::new("GET", &fields[..64])), Ok(()));
        layout.strings(&REQUEST);
        assert_eq!(
            layout.headers(&Recorded::new("GET", &fields)),
            Err(TooBig::Headers)
        );
    }

    #[test]
    fn a_url_that_no_length_field_can_hold_is_an_error() {
        let url = vec![b'/'; 65536];
        let request = Request {
            url: &url,
            ..REQUEST
        };
        let mut layout = Layout::default();
        let strings = layout.strings(&request);
        let result = layout.complete(BASE, strings, &request, None, [0, 0]);
        assert_eq!(
            result.unwrap_err(),
            TooBig::Text {
                what: "URL",
                len: 65536
            }
        );
    }
}
