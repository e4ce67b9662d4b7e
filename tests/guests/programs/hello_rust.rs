// A Rust program of the standard library, static, with the hypercalls it needs in inline assembly.
use std::arch::asm;
use std::collections::HashMap;

const REGISTER_FUNC: u32 = 0x10000;
const WAIT_FOR_REQUESTS: u32 = 0x10001;
const BACKEND_RESPONSE: u32 = 0x10010;
const ON_GET: u64 = 1;

unsafe fn hypercall(number: u32, args: [u64; 6]) -> i64 {
    let mut result = u64::from(number);
    asm!("out 0, eax", inout("rax") result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
        in("rcx") args[3], in("r8") args[4], in("r9") args[5]);
    result as i64
}

fn respond(status: u16, content_type: &str, body: &[u8]) {
    unsafe {
        hypercall(BACKEND_RESPONSE, [u64::from(status), content_type.as_ptr() as u64,
            content_type.len() as u64, body.as_ptr() as u64, body.len() as u64, 0]);
    }
}

extern "C" fn on_get(_url: *const u8, _arg: *const u8) {
    let words = HashMap::from([(0, "Hello"), (1, "World")]);
    let text = format!("{} {} from Rust", words[&0], words[&1]);
    respond(200, "text/plain", text.as_bytes());
}

fn main() {
    unsafe {
        hypercall(REGISTER_FUNC, [ON_GET, on_get as usize as u64, 0, 0, 0, 0]);
        hypercall(WAIT_FOR_REQUESTS, [0; 6]);
    }
}
