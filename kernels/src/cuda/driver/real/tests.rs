//! What is said where there is a libcuda but nothing to compute on: each case is a small library in the driver's place.

use std::path::Path;
use std::process::Command;

use super::Driver;
use super::probe::FUNCTIONS;

/// Names the test that child processes run, and tells them that they are children.
const CHILD: &str = "KILN_TEST_PROBE_CHILD";

/// Run by itself this says nothing; as a child it prints what the probe says.
#[test]
fn probe_child() {
    if std::env::var_os(CHILD).is_some() {
        println!("probed: {}", Driver::probe().err().unwrap_or_else(|| "a device".into()));
    }
}

/// The reason that the probe gives with a libcuda of `functions` (C definitions); all others return 0. `None` where there
/// is no C compiler.
fn reason(case: &str, functions: &[(&str, &str)], lacking: Option<&str>) -> Option<String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cuda-probe");
    let folder = target.join(format!("{case}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let defined = |name: &str| functions.iter().find(|(function, _)| *function == name).map(|(_, body)| *body);
    let source: String = FUNCTIONS
        .iter()
        .filter(|&&name| Some(name) != lacking)
        .map(|name| match defined(name) {
            Some(definition) => format!("int {name}{definition}\n"),
            None if *name == "cuGetErrorString" => {
                format!("int {name}(int code, const char** text) {{ (void)code; *text = \"so it says\"; return 0; }}\n")
            }
            None => format!("int {name}(void) {{ return 0; }}\n"),
        })
        .collect();
    std::fs::write(folder.join("libcuda.c"), source).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-w", "-o"])
        .arg(folder.join("libcuda.so"))
        .arg(folder.join("libcuda.c"))
        .status();
    let result = match compiled {
        Err(_) => {
            eprintln!("SKIPPED: there is no cc to compile a stand-in for libcuda with");
            None
        }
        Ok(status) => {
            assert!(status.success());
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cuda::driver::real::tests::probe_child", "--nocapture"])
                .env(CHILD, "1")
                .env("LD_LIBRARY_PATH", &folder)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !errors.contains("panicked"), "{text}\n{errors}");
            let said = text.split("probed: ").nth(1).and_then(|rest| rest.lines().next());
            Some(said.unwrap_or_else(|| panic!("nothing was said: {text}")).to_string())
        }
    };
    std::fs::remove_dir_all(&folder).unwrap();
    result
}

#[test]
#[cfg(target_os = "linux")]
fn drivers_without_a_usable_device_are_explained() {
    let check = |case, functions: &[(&str, &str)], lacking, expected: &str| {
        if let Some(said) = reason(case, functions, lacking) {
            assert!(said.contains(expected), "{case}: {said}");
        }
    };
    let version = |version: i32| format!("(int* version) {{ *version = {version}; return 0; }}");
    let one_device = ("cuDeviceGetCount", "(int* count) { *count = 1; return 0; }");
    let named = ("cuDeviceGetName", "(char* name) { name[0] = 'X'; name[1] = 0; return 0; }");
    let memory = ("cuDeviceTotalMem_v2", "(unsigned long long* bytes) { *bytes = 1 << 30; return 0; }");
    let recent = version(12_040);
    let recent = ("cuDriverGetVersion", recent.as_str());
    check("stub", &[("cuInit", "(int flags) { return 34; }")], None, "a stub for linking, not a driver");
    check("none", &[("cuInit", "(int flags) { return 100; }")], None, "finds no device");
    check("broken", &[("cuInit", "(int flags) { return 304; }")], None, "so it says");
    let old = version(11_080);
    check(
        "old",
        &[("cuDriverGetVersion", &old)],
        None,
        "it is for CUDA 11.8, and 12.0 (driver 525) or later is needed",
    );
    check("older", &[], Some("cuMemAllocAsync"), "it has no cuMemAllocAsync");
    let no_device = ("cuDeviceGetCount", "(int* count) { *count = 0; return 0; }");
    check("empty", &[recent, no_device], None, "finds no device");
    let seven = ("cuDeviceGetAttribute", "(int* value) { *value = 7; return 0; }");
    check("seven", &[recent, one_device, named, memory, seven], None, "X: compute capability 7.7, and 8.0 or later");
    let twelve = ("cuDeviceGetAttribute", "(int* value) { *value = 12; return 0; }");
    let older = version(12_020);
    let older = ("cuDriverGetVersion", older.as_str());
    check("new", &[older, one_device, named, memory, twelve], None, "it is for CUDA 12.2, and 12.4 (driver 550)");
    let fails = ("cuModuleLoadData", "(void* module) { return 209; }");
    check("refuses", &[recent, one_device, named, memory, twelve, fails], None, "NO_BINARY_FOR_GPU");
}
