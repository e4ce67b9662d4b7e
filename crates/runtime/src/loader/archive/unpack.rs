//! Decoders of packed archives, and the bound on what comes out of them.

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// What a decoder may remember of what it has put out. As much as `xz -9` and `zstd --ultra -22` ask for.
const WINDOW: u32 = 128 << 20;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Packing {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    pub(super) fn open(self, bytes: &[u8]) -> Box<dyn Read + '_> {
        match self {
            Self::None => Box::new(bytes),
            Self::Gzip => Box::new(MultiGzDecoder::new(bytes)),
            // The decoder's own needs are small beside its window.
            Self::Xz => Box::new(XzReader::new_mem_limit(bytes, true, WINDOW / 1024 + 1024)),
            Self::Zstd => Box::new(Frames {
                rest: bytes,
                open: None,
            }),
        }
    }
}

/// The frames of a zstd file, one behind the other.
struct Frames<'a> {
    rest: &'a [u8],
    open: Option<StreamingDecoder<&'a [u8], FrameDecoder>>,
}

impl Frames<'_> {
    /// Opens the next frame that has data; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        while let [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, behind @ ..] = self.rest {
            let len = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok();
            let behind = len.and_then(|len| behind.get(len..));
            self.rest = behind.ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        if self.rest.is_empty() {
            return Ok(false);
        }
        let open = StreamingDecoder::new_with_max_window_size(self.rest, u64::from(WINDOW));
        self.open = Some(open.map_err(io::Error::other)?);
        Ok(true)
    }
}

impl Read for Frames<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if self.open.is_none() && !self.next()? {
                return Ok(0);
            }
            let Some(open) = &mut self.open else {
                return Ok(0);
            };
            let len = open.read(out)?;
            if len > 0 {
                return Ok(len);
            }
            if let Some(open) = self.open.take() {
                let (rest, frame) = open.into_parts();
                let told = frame.get_checksum_from_data();
                if told.is_some() && told != frame.get_calculated_checksum() {
                    return Err(io::Error::other("wrong checksum"));
                }
                self.rest = rest;
            }
        }
    }
}

/// A reader that ends in an error where more than `left` would come out of it.
pub(super) struct Bounded<R> {
    inner: R,
    left: u64,
    exceeded: bool,
}

impl<R> Bounded<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            left: limit,
            exceeded: false,
        }
    }

    pub(super) fn exceeded(&self) -> bool {
        self.exceeded
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(out)?;
        let left = u64::try_from(len)
            .ok()
            .and_then(|len| self.left.checked_sub(len));
        let Some(left) = left else {
            self.exceeded = true;
            return Err(io::Error::other("too much"));
        };
        self.left = left;
        Ok(len)
    }
}
