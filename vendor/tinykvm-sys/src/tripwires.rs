//! Every number, size and offset of `tinykvm_abi.h` once more.
//!
//! Guards the promise that guest programs built years ago keep running. When the build stops
//! here, do not just edit this copy: undo the change to the header, or give the new thing a new
//! number or reserved bytes and add a line to the header's history.

use crate::abi;
use core::mem::offset_of;

macro_rules! moved {
    ($what:expr) => {
        concat!(
            $what,
            " moved: guest programs already in use depend on it. Do not just edit the copy in ",
            "tripwires.rs; see its first lines"
        )
    };
}

macro_rules! numbers {
    ($($name:ident = $value:literal,)*) => {
        $(const _: () = assert!(abi::$name as u64 == $value, moved!(stringify!($name)));)*

        #[cfg(test)]
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

macro_rules! layouts {
    ($($name:ident: $size:literal { $($field:ident $offset:literal,)* })*) => {
        $(
            const _: () = assert!(size_of::<abi::$name>() == $size, moved!(stringify!($name)));
            $(const _: () = assert!(
                offset_of!(abi::$name, $field) == $offset,
                moved!(concat!(stringify!($name), ".", stringify!($field)))
            );)*
        )*
    };
}

numbers! {
    TINYKVM_ABI_VERSION = 1,
    TINYKVM_CALL_FIRST = 0x10000,
    TINYKVM_CALL_LAST = 0x7ffff,
    TINYKVM_CALL_REGISTER_FUNC = 0x10000,
    TINYKVM_CALL_WAIT_FOR_REQUESTS = 0x10001,
    TINYKVM_CALL_WAIT_PAUSED = 0x10002,
    TINYKVM_CALL_SET_CACHEABLE = 0x10005,
    TINYKVM_CALL_BACKEND_RESPONSE = 0x10010,
    TINYKVM_CALL_STORAGE_RETURN = 0x10011,
    TINYKVM_CALL_STREAMING_RESPONSE = 0x10012,
    TINYKVM_CALL_STORAGE_NORETURN = 0x10013,
    TINYKVM_CALL_HTTP_APPEND = 0x10020,
    TINYKVM_CALL_HTTP_SET = 0x10021,
    TINYKVM_CALL_HTTP_FIND = 0x10022,
    TINYKVM_CALL_HTTP_METHOD = 0x10023,
    TINYKVM_CALL_REGEX_COMPILE = 0x10030,
    TINYKVM_CALL_REGEX_FREE = 0x10031,
    TINYKVM_CALL_REGEX_MATCH = 0x10032,
    TINYKVM_CALL_REGEX_SUBST = 0x10033,
    TINYKVM_CALL_REGEX_COPYTO = 0x10035,
    TINYKVM_CALL_SET_BACKEND = 0x10100,
    TINYKVM_CALL_SOCKETS_WRITE = 0x10500,
    TINYKVM_CALL_SHARED_MEMORY = 0x10700,
    TINYKVM_CALL_MAKE_EPHEMERAL = 0x10703,
    TINYKVM_CALL_IS_STORAGE = 0x10706,
    TINYKVM_CALL_STORAGE_ALLOW = 0x10707,
    TINYKVM_CALL_STORAGE_CALLV = 0x10708,
    TINYKVM_CALL_STORAGE_TASK = 0x10709,
    TINYKVM_CALL_STOP_STORAGE_TASK = 0x1070a,
    TINYKVM_CALL_MEMINFO = 0x10a00,
    TINYKVM_CALL_MULTIPROCESS = 0x10710,
    TINYKVM_CALL_MULTIPROCESS_ARRAY = 0x10711,
    TINYKVM_CALL_MULTIPROCESS_CLONE = 0x10712,
    TINYKVM_CALL_MULTIPROCESS_WAIT = 0x10713,
    TINYKVM_CALL_FETCH = 0x20000,
    TINYKVM_CALL_REQUEST = 0x20001,
    TINYKVM_CALL_LOG = 0x7f000,
    TINYKVM_CALL_BREAKPOINT = 0x7f7f7,
    TINYKVM_CALL_IS_DEBUG = 0x7fdeb,
    TINYKVM_ON_RECV = 0,
    TINYKVM_ON_GET = 1,
    TINYKVM_ON_POST = 2,
    TINYKVM_ON_REQUEST = 3,
    TINYKVM_ON_STREAM_POST = 4,
    TINYKVM_ON_ERROR = 5,
    TINYKVM_ON_LIVE_UPDATE = 6,
    TINYKVM_ON_LIVE_RESTORE = 7,
    TINYKVM_ON_SOCKET_PAUSE = 12,
    TINYKVM_CALLBACKS = 13,
    TINYKVM_WHERE_REQUEST = 0,
    TINYKVM_WHERE_RESPONSE = 1,
    TINYKVM_WHERE_BEREQ = 4,
    TINYKVM_WHERE_BERESP = 5,
    TINYKVM_HTTP_FULL = 0xffffffff,
    TINYKVM_REGEX_ALL = 1,
    TINYKVM_FETCH_FAILED = 1,
    TINYKVM_FETCH_REFUSED = 9,
    TINYKVM_FETCH_TOO_DEEP = 508,
    TINYKVM_REQUEST_WARMUP = 1,
    TINYKVM_SOCKET_CONNECT = 0,
    TINYKVM_SOCKET_READ = 1,
    TINYKVM_SOCKET_WRITABLE = 2,
    TINYKVM_SOCKET_DISCONNECT = 3,
    TINYKVM_MIN_STATUS = 200,
    TINYKVM_MAX_STATUS = 599,
    TINYKVM_MAX_CONTENT_TYPE = 4095,
    TINYKVM_MAX_REQUEST_HEADERS = 64,
    TINYKVM_MAX_RESPONSE_HEADERS = 64,
    TINYKVM_MIN_HEADER_TEXT = 4,
    TINYKVM_MAX_HEADER_TEXT = 65535,
    TINYKVM_MAX_LOG_TEXT = 65535,
    TINYKVM_MAX_REGEX_TEXT = 65535,
    TINYKVM_MAX_REGEXES = 64,
    TINYKVM_MAX_STORAGE_BUFFERS = 64,
    TINYKVM_MAX_STORAGE_TASK = 2097152,
    TINYKVM_MAX_FETCH_URL = 1024,
    TINYKVM_MAX_FETCH_CTYPE = 128,
    TINYKVM_FETCH_FIELDS = 12,
    TINYKVM_MAX_SOCKET_EVENTS = 32,
}

layouts! {
    tinykvm_request_header: 16 {
        field 0,
        field_colon 8,
        field_len 12,
    }
    tinykvm_request: 104 {
        method 0,
        url 8,
        arg 16,
        content_type 24,
        method_len 32,
        url_len 34,
        arg_len 36,
        content_type_len 38,
        content 40,
        content_len 48,
        headers 56,
        num_headers 64,
        info_flags 66,
        reserved0 68,
        prng 72,
        reserved1 88,
    }
    tinykvm_response_header: 16 {
        field 0,
        field_len 8,
    }
    tinykvm_response_extra: 56 {
        headers 0,
        num_headers 8,
        cached 10,
        unused 11,
        ttl 12,
        grace 16,
        keep 20,
        reserved 24,
    }
    tinykvm_buffer: 16 {
        data 0,
        len 8,
    }
    tinykvm_streaming_content: 16 {
        data 0,
        len 8,
    }
    tinykvm_shared_memory: 16 {
        begin 0,
        end 8,
    }
    tinykvm_meminfo: 32 {
        max_memory 0,
        max_request_memory 8,
        request_memory_upper 16,
        request_memory_current 24,
    }
    tinykvm_fetch: 176 {
        status 0,
        post_len 4,
        post_data 8,
        headers 16,
        headers_len 24,
        unused 28,
        content 32,
        content_len 40,
        content_type_len 44,
        content_type 48,
    }
    tinykvm_fetch_fields: 120 {
        field 0,
        len 96,
    }
    tinykvm_fetch_options: 24 {
        interface 0,
        unused 8,
        follow_location 16,
        dummy_fetch 17,
        tcp_fast_open 18,
        dont_verify_host 19,
        unused_option 20,
    }
    tinykvm_socket_event: 40 {
        fd 0,
        event 4,
        remote 8,
        arg 16,
        data 24,
        data_len 32,
    }
}

macro_rules! frame {
    ($($field:ident = $offset:ident,)*) => {
        $(const _: () = assert!(
            offset_of!(abi::tinykvm_frame, $field) == abi::$offset as usize,
            concat!("tinykvm_layout.h: ", stringify!($offset), " is not where the field is")
        );)*
    };
}

// Internal, so free to move; but assembly and C must move together.
frame! {
    rax = TINYKVM_FRAME_RAX,
    rcx = TINYKVM_FRAME_RCX,
    rdx = TINYKVM_FRAME_RDX,
    r11 = TINYKVM_FRAME_R11,
    target = TINYKVM_FRAME_TARGET,
    fs_base = TINYKVM_FRAME_FS_BASE,
    gs_base = TINYKVM_FRAME_GS_BASE,
    flush = TINYKVM_FRAME_FLUSH,
    clock = TINYKVM_FRAME_CLOCK,
    random = TINYKVM_FRAME_RANDOM,
    vcpu = TINYKVM_FRAME_VCPU,
}

#[cfg(test)]
mod tests {
    use super::NAMES;

    #[test]
    fn every_number_of_the_header_has_a_tripwire() {
        let header = include_str!("../include/tinykvm_abi.h");
        let missing: Vec<&str> = header
            .lines()
            .filter_map(|line| line.strip_prefix("#define "))
            .filter_map(|rest| rest.split_whitespace().next())
            .filter(|name| *name != "TINYKVM_ABI_H" && !NAMES.contains(name))
            .collect();
        assert!(missing.is_empty(), "add these to tripwires.rs: {missing:?}");
    }

    #[test]
    fn the_header_can_be_assembled() {
        // The assembler reads the same numbers: nothing but #define outside __ASSEMBLER__.
        let header = include_str!("../include/tinykvm_abi.h");
        let (numbers, _) = header.split_once("#ifndef __ASSEMBLER__").unwrap();
        assert!(!numbers.contains("struct ") && !numbers.contains("#include"));
    }
}
