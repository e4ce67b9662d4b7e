//! Makes the C side of the VMOD: finds Varnish, runs vmodtool.py on the interface,
//! compiles the generated code and the shims, and reads `bridge.h` into Rust.
//! No logic of the VMOD is here.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const SHIMS: [&str; 6] = ["context", "director", "http", "fetch", "ttl", "data"];
const HEADERS: [&str; 3] = ["bridge.h", "house.h", "wrapper.h"];

fn main() {
    if let Err(problem) = build() {
        println!("cargo::error={}", problem.replace('\n', " "));
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let varnish = Varnish::find()?;
    // For tests/vtc.rs: where Varnish's own modules are.
    println!("cargo::rustc-env=VARNISH_VMODDIR={}", varnish.modules);
    for file in SHIMS.iter().map(|s| format!("{s}.c")) {
        println!("cargo::rerun-if-changed=vmod/{file}");
    }
    for header in HEADERS {
        println!("cargo::rerun-if-changed=vmod/{header}");
    }
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    // varnishd closes a module whose last VCL is gone; ours has threads that may still run then.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");

    generate(&varnish, &out)?;
    compile(&varnish, &out)?;
    bind(&varnish, &out)
}

/// What pkg-config knows about the installed Varnish.
struct Varnish {
    modules: String,
    includes: Vec<PathBuf>,
    vmodtool: PathBuf,
}

impl Varnish {
    fn find() -> Result<Self, String> {
        let modules = pkg_config(&["--variable=vmoddir"])?;
        let includes = pkg_config(&["--cflags-only-I"])?
            .split_whitespace()
            .filter_map(|flag| flag.strip_prefix("-I"))
            .map(PathBuf::from)
            .collect::<Vec<_>>();
        let vmodtool = PathBuf::from(pkg_config(&["--variable=vmodtool"])?);
        if !vmodtool.is_file() {
            return Err(format!(
                "{} is missing: install the Debian package libvarnishapi-dev",
                vmodtool.display()
            ));
        }
        if !includes
            .iter()
            .any(|dir| dir.join("cache/cache_varnishd.h").is_file())
        {
            return Err(
                "cache/cache_varnishd.h is missing: install the Debian package libvarnishapi-dev"
                    .to_owned(),
            );
        }
        Ok(Self {
            modules,
            includes,
            vmodtool,
        })
    }
}

fn pkg_config(args: &[&str]) -> Result<String, String> {
    let answer = Command::new("pkg-config")
        .args(args)
        .arg("varnishapi")
        .output()
        .map_err(|e| {
            format!("cannot run pkg-config ({e}): install the Debian package pkg-config")
        })?;
    if !answer.status.success() {
        return Err(format!(
            "pkg-config does not know varnishapi: install the Debian package libvarnishapi-dev \
             ({})",
            String::from_utf8_lossy(&answer.stderr).trim()
        ));
    }
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

/// vcc_if.c, vcc_if.h and the manual in RST, from the interface.
fn generate(varnish: &Varnish, out: &Path) -> Result<(), String> {
    let interface = "vmod/vmod_tinykvm.vcc";
    println!("cargo::rerun-if-changed={interface}");
    let done = Command::new("python3")
        .arg(&varnish.vmodtool)
        .arg("--strict")
        .arg("-o")
        .arg(out.join("vcc_if"))
        .arg("-w")
        .arg(out)
        .arg(interface)
        .output()
        .map_err(|e| format!("cannot run python3 ({e}): install the Debian package python3"))?;
    if !done.status.success() {
        return Err(format!(
            "vmodtool.py refuses {interface}: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        ));
    }
    // The generated C wants the config.h of an autotools tree.
    fs::write(out.join("config.h"), "").map_err(|e| format!("cannot write config.h: {e}"))
}

fn compile(varnish: &Varnish, out: &Path) -> Result<(), String> {
    cc::Build::new()
        .files(SHIMS.iter().map(|shim| format!("vmod/{shim}.c")))
        .includes(&varnish.includes)
        .include("vmod")
        .include(out)
        .flag("-std=gnu11")
        .flag("-Wno-unused-parameter")
        .warnings(true)
        .warnings_into_errors(env::var_os("CI").is_some())
        // Nothing refers to the description: without this the linker drops it.
        .link_lib_modifier("+whole-archive")
        .try_compile("tinykvm_shims")
        .map_err(|e| format!("cannot compile vmod/*.c (Debian packages gcc and libc6-dev): {e}"))
}

fn bind(varnish: &Varnish, out: &Path) -> Result<(), String> {
    bindgen::Builder::default()
        .header("vmod/wrapper.h")
        .clang_args(
            varnish
                .includes
                .iter()
                .map(|dir| format!("-I{}", dir.display())),
        )
        .clang_args(["-Ivmod".to_owned(), format!("-I{}", out.display())])
        .allowlist_function("tk_.*|vmod_.*")
        .blocklist_function("tk_rs_.*")
        .allowlist_var("TK_.*")
        .allowlist_type("vmod_data|vcl_event_e")
        .opaque_type("vrt_ctx|director|vmod_priv")
        .default_macro_constant_type(bindgen::MacroTypeVariation::Signed)
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .derive_debug(true)
        .layout_tests(true)
        .generate()
        .map_err(|e| {
            format!("bindgen cannot read vmod/wrapper.h (Debian package libclang-dev): {e}")
        })?
        .write_to_file(out.join("bindings.rs"))
        .map_err(|e| format!("cannot write bindings.rs: {e}"))
}
