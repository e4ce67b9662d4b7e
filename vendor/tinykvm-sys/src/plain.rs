//! The structures of the ABI as bytes and back.
//!
//! Guards: only types without padding, pointers or invalid bit patterns are `Plain`, so that
//! neither host memory reaches a guest nor a guest's bytes make an invalid value.

use crate::abi;

/// A structure of the ABI that is nothing but its bytes.
///
/// # Safety
///
/// `repr(C)`, no padding, no pointers, and every bit pattern is a value.
pub unsafe trait Plain: Copy + Default {}

/// The bytes of a structure, as they stand in guest memory.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` promises that all size_of::<T>() bytes are initialised; the slice borrows
    // `value`.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

/// The structure that starts at the front of `bytes`; `None` when there are too few.
pub fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: size_of::<T>() bytes are there, alignment is not needed, and `Plain` promises that
    // any bytes are a value.
    Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast::<T>()) })
}

macro_rules! plain {
    ($($name:ident { $($field:ident),* })*) => {
        $(
            // SAFETY: the structure is repr(C) with integer and float fields only (the const
            // below names them all), and its size is the sum of their sizes, so it has no padding.
            unsafe impl Plain for abi::$name {}

            const _: () = {
                const fn size<T, F>(_: fn(&T) -> &F) -> usize {
                    size_of::<F>()
                }
                const SUM: usize = 0 $(+ size(|it: &abi::$name| &it.$field))*;
                assert!(
                    SUM == size_of::<abi::$name>(),
                    concat!(stringify!($name), " has padding: give those bytes a field")
                );
            };
        )*
    };
}

plain! {
    tinykvm_request_header { field, field_colon, field_len }
    tinykvm_request {
        method, url, arg, content_type, method_len, url_len, arg_len, content_type_len, content,
        content_len, headers, num_headers, info_flags, reserved0, prng, reserved1
    }
    tinykvm_response_header { field, field_len }
    tinykvm_response_extra { headers, num_headers, cached, unused, ttl, grace, keep, reserved }
    tinykvm_buffer { data, len }
    tinykvm_streaming_content { data, len }
    tinykvm_shared_memory { begin, end }
    tinykvm_meminfo {
        max_memory, max_request_memory, request_memory_upper, request_memory_current
    }
    tinykvm_fetch {
        status, post_len, post_data, headers, headers_len, unused, content, content_len,
        content_type_len, content_type
    }
    tinykvm_fetch_fields { field, len }
    tinykvm_fetch_options {
        interface, unused, follow_location, dummy_fetch, tcp_fast_open, dont_verify_host,
        unused_option
    }
    tinykvm_socket_event { fd, event, remote, arg, data, data_len }
    tinykvm_clock { tsc_base, mult, realtime_ns, monotonic_ns, reserved }
    tinykvm_frame {
        rax, rcx, rdx, r11, target, fs_base, gs_base, flush, clock, random,
        vcpu, request_vm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_survives_its_bytes() {
        let extra = abi::tinykvm_response_extra {
            headers: 0x1122_3344_5566_7788,
            num_headers: 3,
            cached: 1,
            ttl: 1.5,
            ..Default::default()
        };
        let bytes = bytes_of(&extra).to_vec();
        assert_eq!(bytes.len(), 56);
        assert_eq!(bytes[..8], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        let back: abi::tinykvm_response_extra = from_bytes(&bytes).unwrap();
        assert_eq!(bytes_of(&back), bytes);
    }

    #[test]
    fn too_few_bytes_are_no_structure() {
        assert!(from_bytes::<abi::tinykvm_request>(&[0; 103]).is_none());
        assert!(from_bytes::<abi::tinykvm_request>(&[0xff; 104]).is_some());
    }
}
