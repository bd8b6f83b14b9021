//! Runs a policy from Rust: the C ABI by hand, no crate.
//!
//!     rustc main.rs -L LIB -C link-arg=-ltorchship_c -C link-arg=-Wl,-rpath,LIB

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_void};
use std::ptr::{null, null_mut};

#[repr(C)]
struct Tensor {
    name: *const c_char,
    dtype: i32,
    rank: i32,
    shape: *const i64,
    strides: *const i64,
    data: *const c_void,
}

extern "C" {
    fn torchship_last_message() -> *const c_char;
    fn torchship_archive_open(
        path: *const c_char,
        options: *const c_void,
        archive: *mut *mut c_void,
    ) -> i32;
    fn torchship_archive_close(archive: *mut c_void);
    fn torchship_session_open(
        archive: *const c_void,
        method: *const c_char,
        session: *mut *mut c_void,
    ) -> i32;
    fn torchship_session_close(session: *mut c_void);
    fn torchship_session_step(
        session: *mut c_void,
        inputs: *const Tensor,
        input_count: usize,
        outputs: *mut *const Tensor,
        output_count: *mut usize,
    ) -> i32;
}

const UINT8: i32 = 1; // of torchship_dtype
const OBS: usize = 510;

/// Ends with the library's message where a call has failed.
fn check(status: i32) {
    if status != 0 {
        let message = unsafe { CStr::from_ptr(torchship_last_message()) };
        eprintln!("{}", message.to_string_lossy());
        std::process::exit(status);
    }
}

fn main() {
    let path = CString::new(std::env::args().nth(1).expect("an archive")).expect("a path");
    let (mut archive, mut session) = (null_mut(), null_mut());
    check(unsafe { torchship_archive_open(path.as_ptr(), null(), &mut archive) });
    check(unsafe { torchship_session_open(archive, null(), &mut session) });

    let shape = [1, OBS as i64];
    for step in 0..3 {
        let values = [step as u8; OBS];
        let obs = Tensor {
            name: b"obs\0".as_ptr().cast(),
            dtype: UINT8,
            rank: 2,
            shape: shape.as_ptr(),
            strides: null(),
            data: values.as_ptr().cast(),
        };
        let (mut outputs, mut count) = (null(), 0);
        check(unsafe { torchship_session_step(session, &obs, 1, &mut outputs, &mut count) });
        for output in unsafe { std::slice::from_raw_parts(outputs, count) } {
            if unsafe { CStr::from_ptr(output.name) }.to_bytes() == b"value" {
                println!("step {step}: value {:?}", unsafe { *output.data.cast::<f32>() });
            }
        }
    }
    unsafe {
        torchship_session_close(session);
        torchship_archive_close(archive);
    }
}
