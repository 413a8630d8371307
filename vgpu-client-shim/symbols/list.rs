// The libraries that stand in for NVIDIA's, and the reader of the lists of their names. Included by the build scripts
// of the core and of the entry libraries: one order of names on both sides of each table.

/// A library that programs load.
struct Library {
    /// By which the core knows its table.
    key: u32,
    soname: &'static str,
    /// What cargo calls it.
    artifact: &'static str,
    /// The list of its names, in `symbols/`.
    list: &'static str,
    /// The column of the list that answers its names, counted behind the name.
    column: usize,
    /// The module of the core that has its chapters.
    root: &'static str,
}

const LIBRARIES: [Library; 4] = [
    Library {
        key: 12,
        soname: "libcudart.so.12",
        artifact: "libvgpu_cudart12.so",
        list: "cudart.txt",
        column: 0,
        root: "runtime",
    },
    Library {
        key: 13,
        soname: "libcudart.so.13",
        artifact: "libvgpu_cudart13.so",
        list: "cudart.txt",
        column: 1,
        root: "runtime",
    },
    Library {
        key: 100,
        soname: "libcuda.so.1",
        artifact: "libvgpu_cuda.so",
        list: "cuda.txt",
        column: 1,
        root: "driver",
    },
    Library {
        key: 101,
        soname: "libnvidia-ml.so.1",
        artifact: "libvgpu_nvml.so",
        list: "nvml.txt",
        column: 0,
        root: "nvml",
    },
];

/// One line of a list.
struct Symbol {
    name: String,
    /// The columns behind the name.
    columns: Vec<String>,
}

impl Library {
    /// The version that its symbols carry: named as the library, in the letters that an assembler takes.
    fn version_node(&self) -> String {
        self.soname.replace('-', "_")
    }

    /// The names that this library has, in the order of its table, each with what answers it.
    fn symbols(&self, folder: &std::path::Path) -> Vec<(String, String)> {
        let lines = lines(&folder.join(self.list)).into_iter();
        let own = lines.map(|line| (line.name, line.columns[self.column].clone()));
        own.filter(|(_, answer)| answer != ".").collect()
    }
}

fn lines(path: &std::path::Path) -> Vec<Symbol> {
    println!("cargo:rerun-if-changed={}", path.display());
    let text = std::fs::read_to_string(path).expect("the lists of symbols are part of the source");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            // What stands behind # says why a function is only partly there.
            let columns = line.split('#').next().unwrap_or(line);
            let mut words = columns.split_whitespace().map(str::to_owned);
            let name = words.next().expect("no empty lines");
            Symbol { name, columns: words.collect() }
        })
        .collect()
}

/// Tells two builds with different lists of names apart (FNV-1a over the names in order).
fn fingerprint<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = names.flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
