//! Containers made by nvcc 13.0.88, kept in `tests/fixtures`.

use fatbin::cubin::{elf_header_len, elf_len};
use fatbin::{Cubin, Entry, Fatbin, Image, Kind, Malformed, Param, header_len};

const ZSTD: &[u8] = include_bytes!("fixtures/zstd.fatbin");
const LZ4: &[u8] = include_bytes!("fixtures/lz4.fatbin");
const STORED: &[u8] = include_bytes!("fixtures/stored.fatbin");
const MANY: &[u8] = include_bytes!("fixtures/many.fatbin");
const SM_90: &[u8] = include_bytes!("fixtures/sm_90.cubin");
const SM_100: &[u8] = include_bytes!("fixtures/sm_100.cubin");

#[test]
fn ptx_is_the_same_however_it_was_packed() {
    let texts = [ZSTD, LZ4, STORED].map(|bytes| {
        let fatbin = Fatbin::parse(bytes).unwrap();
        fatbin.best_ptx(75).unwrap().ptx().unwrap()
    });
    assert!(texts[0].contains(".visible .entry axpy("), "{}", texts[0]);
    assert!(texts[0].trim_end().ends_with('}'));
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[2]);
    assert!(matches!(Image::classify(texts[0].as_bytes()), Ok(Image::Ptx(text)) if text == texts[0]));
}

#[test]
fn entries_tell_what_they_are() {
    let fatbin = Fatbin::parse(ZSTD).unwrap();
    let facts = |entry: &Entry<'_>| (entry.kind(), entry.arch(), entry.version());
    let all: Vec<_> = fatbin.entries().iter().map(facts).collect();
    assert_eq!(all, [(Kind::ELF, 75, (1, 8)), (Kind::PTX, 75, (9, 0))]);
    let elf = fatbin.best_elf(75).unwrap().payload().unwrap();
    assert!(matches!(Image::classify(&elf), Ok(Image::Elf(_))));
    assert!(matches!(fatbin.best_elf(75).unwrap().ptx(), Err(Malformed::Kind { .. })));
    assert!(fatbin.best_elf(80).is_none(), "machine code does not run on another major number");
    assert!(fatbin.best_elf(70).is_none(), "nor on an older device");
}

#[test]
fn stated_length_is_the_files_length() {
    for bytes in [ZSTD, LZ4, STORED, MANY] {
        assert_eq!(header_len(bytes.first_chunk().unwrap()), Ok(bytes.len()));
        let mut followed = bytes.to_vec();
        followed.extend_from_slice(b"the next container");
        assert_eq!(
            Fatbin::parse(&followed).unwrap().entries().len(),
            Fatbin::parse(bytes).unwrap().entries().len()
        );
    }
    for bytes in [SM_90, SM_100] {
        assert!(elf_header_len(bytes.first_chunk().unwrap()).unwrap() <= bytes.len());
        assert_eq!(elf_len(bytes), Ok(bytes.len()));
    }
}

#[test]
fn the_newest_ptx_that_the_device_can_run_is_chosen() {
    let fatbin = Fatbin::parse(MANY).unwrap();
    let chosen = |capability| fatbin.best_ptx(capability).map(Entry::arch);
    assert_eq!(chosen(70), None);
    assert_eq!(chosen(75), Some(75));
    assert_eq!(chosen(89), Some(80));
    assert_eq!(chosen(90), Some(90), "compute_90a is for exactly this device");
    assert_eq!(chosen(103), Some(100), "compute_100f is for the family");
    assert_eq!(chosen(120), Some(80), "and for no other");
    assert_eq!(fatbin.ptx_images().count(), 4);
}

#[test]
fn kernels_and_parameters_of_a_cubin_are_read() {
    for (bytes, capability) in [(SM_90, 90), (SM_100, 100)] {
        let cubin = Cubin::parse(bytes).unwrap();
        let names: Vec<&str> = cubin.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, ["axpy", "count", "mixed", "tile"], "sm_{capability}");
        let [axpy, count, mixed, tile] = cubin.kernels.as_slice() else { panic!("four kernels") };
        let layout = |sizes: &[(u32, u32)]| -> Vec<Param> {
            sizes.iter().map(|&(offset, size)| Param { offset, size }).collect()
        };
        assert_eq!(axpy.params, layout(&[(0, 4), (8, 8), (16, 8), (24, 4)]));
        assert_eq!(axpy.param_bytes, 28);
        assert_eq!(count.params, []);
        assert_eq!(count.param_bytes, 0);
        assert_eq!(mixed.params, layout(&[(0, 1), (1, 48), (56, 8), (64, 16), (80, 2), (88, 8)]));
        assert_eq!(tile.shared_bytes, 16 * 17 * 4, "sm_{capability}");
        assert_eq!(tile.max_threads, Some([128, 1, 1]));
        assert_eq!(axpy.max_threads, None);
        assert_eq!(axpy.shared_bytes, 0);
        assert!(cubin.kernels.iter().all(|kernel| kernel.registers.is_some_and(|count| count > 0)));
        let variables: Vec<_> =
            cubin.variables.iter().map(|variable| (variable.name.as_str(), variable.bytes)).collect();
        assert_eq!(variables, [("counter", 4), ("table", 256)]);
        assert_eq!(cubin.constant_bytes, 64 * 4);
    }
}

#[test]
fn an_elf_image_of_another_machine_is_refused() {
    let mut other = SM_90.to_vec();
    other[18] = 62; // e_machine: x86-64
    other[19] = 0;
    assert!(matches!(Cubin::parse(&other), Err(Malformed::Field { field: "machine", value: 62, .. })));
}

#[test]
fn a_fatbin_cut_anywhere_is_malformed() {
    for bytes in [ZSTD, LZ4, STORED, MANY] {
        for length in 0..bytes.len() {
            assert!(Fatbin::parse(&bytes[..length]).is_err(), "cut to {length} of {}", bytes.len());
        }
    }
}

#[test]
fn a_cubin_cut_anywhere_never_panics_and_loses_its_tables() {
    for bytes in [SM_90, SM_100] {
        let whole = Cubin::parse(bytes).unwrap();
        for length in 0..bytes.len() {
            // The program headers stand last and are not needed, so the very last bytes may be missing.
            if let Ok(cubin) = Cubin::parse(&bytes[..length]) {
                assert_eq!(cubin, whole, "cut to {length} of {}", bytes.len());
            }
        }
        assert!(Cubin::parse(&bytes[..bytes.len() / 2]).is_err());
    }
}

#[test]
fn compressed_bytes_that_were_changed_never_panic() {
    for bytes in [ZSTD, LZ4] {
        let fatbin = Fatbin::parse(bytes).unwrap();
        let plain = fatbin.best_ptx(75).unwrap().ptx().unwrap();
        let mut differing = 0;
        for at in (bytes.len() - 900)..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x55;
            let text = Fatbin::parse(&changed).and_then(|fatbin| fatbin.best_ptx(75).unwrap().ptx());
            differing += usize::from(text != Ok(plain.clone()));
        }
        assert!(differing > 500, "only {differing} of 900 changes were noticed");
    }
}
