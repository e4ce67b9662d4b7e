//! Makes the C side of the VMOD: finds Varnish, runs vmodtool.py on the interface,
//! compiles the generated code and the shims, and reads `bridge.h` into Rust.
//! No logic of the VMOD is here.
//!
//! Varnish is this machine's, or with `VARNISH_ROOT` that of a Debian in that folder
//! (scripts/varnish-root.sh). How versions differ is for vmod/versions.h.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const SHIMS: [&str; 8] = [
    "context", "director", "http", "fetch", "synth", "ttl", "counters", "data",
];
/// Sets of counters for varnishstat.
const COUNTERS: [&str; 2] = ["vmod_kvm", "vmod_kvm_program"];
const HEADERS: [&str; 4] = ["bridge.h", "house.h", "versions.h", "wrapper.h"];

fn main() {
    if let Err(problem) = build() {
        println!("cargo::error={}", problem.replace('\n', " "));
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let varnish = Varnish::find()?;
    // For tests/vtc.rs: where Varnish is, and its own modules in there.
    let root = env::var("VARNISH_ROOT").unwrap_or_default();
    println!("cargo::rustc-env=VARNISH_ROOT={root}");
    println!("cargo::rustc-env=VARNISH_VMODDIR={}", varnish.modules);
    println!("cargo::rustc-env=VARNISH_NAME={}", varnish.name);
    for file in SHIMS.iter().map(|s| format!("{s}.c")) {
        println!("cargo::rerun-if-changed=vmod/{file}");
    }
    for header in HEADERS {
        println!("cargo::rerun-if-changed=vmod/{header}");
    }
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo::rerun-if-env-changed=VARNISH_ROOT");
    // varnishd closes a module whose last VCL is gone; ours has threads that may still run then.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");

    generate(&varnish, &out)?;
    describe_counters(&varnish, &out)?;
    compile(&varnish, &out)?;
    bind(&varnish, &out)
}

/// What pkg-config knows about the Varnish to build for.
struct Varnish {
    name: &'static str,
    /// Where its own modules are, as it sees it.
    modules: String,
    includes: Vec<PathBuf>,
    vmodtool: PathBuf,
    vsctool: PathBuf,
}

/// Vinyl Cache goes by both names in Debian, elsewhere by its own.
const PACKAGES: [&str; 2] = ["varnishapi", "vinylapi"];
/// What the daemon calls itself, and the header of its inside.
const INSIDES: [(&str, &str); 2] = [
    ("varnish", "cache/cache_varnishd.h"),
    ("vinyl", "cache/cache_vinyld.h"),
];

impl Varnish {
    fn find() -> Result<Self, String> {
        let root = env::var_os("VARNISH_ROOT").map(PathBuf::from);
        let known = |package: &&&str| pkg_config(root.as_deref(), &["--exists", package]).is_ok();
        let package = PACKAGES.iter().find(known).unwrap_or(&PACKAGES[0]);
        let ask = |what: &str| pkg_config(root.as_deref(), &[what, package]);
        let inside = |path: &str| match &root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        };

        let includes = ask("--cflags-only-I")?
            .split_whitespace()
            .filter_map(|flag| flag.strip_prefix("-I"))
            .map(inside)
            .collect::<Vec<_>>();
        let vmodtool = inside(&ask("--variable=vmodtool")?);
        if !vmodtool.is_file() {
            return Err(missing(&vmodtool.display().to_string()));
        }
        let is_there = |header: &str| includes.iter().any(|dir| dir.join(header).is_file());
        let (name, _) = INSIDES
            .into_iter()
            .find(|(_, header)| is_there(header))
            .ok_or_else(|| missing(INSIDES[0].1))?;
        Ok(Self {
            name,
            modules: ask("--variable=vmoddir")?,
            vsctool: inside(&ask("--variable=vsctool")?),
            includes,
            vmodtool,
        })
    }
}

fn missing(what: &str) -> String {
    format!("{what} is missing: install the Debian package libvarnishapi-dev (or libvinylapi-dev)")
}

fn pkg_config(root: Option<&Path>, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("pkg-config");
    command.args(args);
    if let Some(root) = root {
        let folders = ["usr/lib/x86_64-linux-gnu/pkgconfig", "usr/share/pkgconfig"];
        let folders = env::join_paths(folders.map(|folder| root.join(folder)))
            .map_err(|e| format!("VARNISH_ROOT: {e}"))?;
        command.env("PKG_CONFIG_LIBDIR", folders);
    }
    let answer = command.output().map_err(|e| {
        format!("cannot run pkg-config ({e}): install the Debian package pkg-config")
    })?;
    if !answer.status.success() {
        let reason = String::from_utf8_lossy(&answer.stderr);
        return Err(missing(&format!(
            "what pkg-config wants ({})",
            reason.trim()
        )));
    }
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

/// vcc_if.c, vcc_if.h and the manual in RST, from the interface.
fn generate(varnish: &Varnish, out: &Path) -> Result<(), String> {
    let interface = "vmod/vmod_tinykvm.vcc";
    println!("cargo::rerun-if-changed={interface}");
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
    };
    // Older ones do not know where a function may be called from: then only we check that.
    let restricts = read(&varnish.vmodtool)?.contains("Restrict");
    let refreshes = varnish
        .includes
        .iter()
        .filter_map(|dir| fs::read_to_string(dir.join("vcl.h")).ok())
        .any(|header| header.contains("VCL_MET_BACKEND_REFRESH"));
    // For tests/vtc.rs.
    println!("cargo::rustc-env=VARNISH_RESTRICTS={}", u8::from(restricts));
    println!("cargo::rustc-env=VARNISH_REFRESHES={}", u8::from(refreshes));
    let text: String = read(Path::new(interface))?
        .split_inclusive('\n')
        .filter(|line| restricts || !line.starts_with("$Restrict "))
        .collect();
    let copy = out.join("vmod_tinykvm.vcc");
    fs::write(&copy, text).map_err(|e| format!("cannot write {}: {e}", copy.display()))?;
    let done = Command::new("python3")
        .arg(&varnish.vmodtool)
        .arg("--strict")
        .arg("-o")
        .arg(out.join("vcc_if"))
        .arg("-w")
        .arg(out)
        .arg(&copy)
        // It leaves a note about the version beside.
        .current_dir(out)
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

/// VSC_*.c and VSC_*.h, from the descriptions of counters.
fn describe_counters(varnish: &Varnish, out: &Path) -> Result<(), String> {
    for set in COUNTERS {
        let description = format!("vmod/{set}.vsc");
        println!("cargo::rerun-if-changed={description}");
        // The words of the language begin with the daemon's name.
        let words = format!(".. {}_vsc", varnish.name);
        let text = fs::read_to_string(&description)
            .map_err(|e| format!("cannot read {description}: {e}"))?
            .replace(".. varnish_vsc", &words);
        let copy = out.join(format!("{set}.vsc"));
        fs::write(&copy, text).map_err(|e| format!("cannot write {}: {e}", copy.display()))?;
        for what in ["-c", "-h"] {
            let done = Command::new("python3")
                .arg(&varnish.vsctool)
                .arg(what)
                .arg(&copy)
                .current_dir(out)
                .output()
                .map_err(|e| {
                    format!("cannot run python3 ({e}): install the Debian package python3")
                })?;
            if !done.status.success() {
                return Err(format!(
                    "vsctool.py refuses {description}: {}",
                    String::from_utf8_lossy(&done.stderr).trim()
                ));
            }
        }
    }
    Ok(())
}

fn compile(varnish: &Varnish, out: &Path) -> Result<(), String> {
    cc::Build::new()
        .files(SHIMS.iter().map(|shim| format!("vmod/{shim}.c")))
        .files(COUNTERS.map(|set| out.join(format!("VSC_{set}.c"))))
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
        .opaque_type("vrt_ctx|director|vmod_priv|strands")
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
