//! The formulas of the programming guide, by hand.

use super::super::format::Format;
use super::super::image::write;
use super::*;

/// A row or a rectangle of floats.
fn image(width: u64, height: u64, depth: u64, value: impl Fn(u64, u64, u64) -> f32) -> Image {
    let image = Image::new(Format::new(0x20, 1).expect("known"), width, height, depth).expect("memory");
    for (z, y, x) in
        (0..depth).flat_map(|z| (0..height).flat_map(move |y| (0..width).map(move |x| (z, y, x))))
    {
        write(image.address(x * 4, y, z, 4).expect("inside"), 4, value(x, y, z).to_bits());
    }
    image
}

fn texture(image: Image) -> Texture {
    Texture {
        levels: vec![image],
        shape: Shape::Plain,
        modes: [AddressMode::Clamp; 3],
        linear: false,
        normalized: false,
        as_integer: false,
        srgb: false,
        border: [0.0; 4],
        mipmap_linear: false,
        mipmap_bias: 0.0,
        mipmap_range: (0.0, 0.0),
    }
}

/// 10, 11, 12, 13.
fn row() -> Texture {
    #[allow(clippy::cast_precision_loss, reason = "small")]
    texture(image(4, 1, 1, |x, _, _| 10.0 + x as f32))
}

fn fetch(texture: &Texture, at: &[f32]) -> f32 {
    let mut request = Request { axes: at.len(), ..Request::default() };
    request.at[..at.len()].copy_from_slice(at);
    f32::from_bits(texture.fetch(request)[0])
}

#[test]
fn the_nearest_texel_holds_the_coordinate() {
    let row = row();
    let found = [-3.0, 0.0, 0.99, 1.0, 3.5, 4.0, 99.0].map(|x| fetch(&row, &[x]));
    assert_eq!(found, [10.0, 10.0, 10.0, 11.0, 13.0, 13.0, 13.0]);
}

#[test]
fn address_modes_bring_coordinates_back() {
    let found = |mode| {
        let texture = Texture { modes: [mode; 3], normalized: true, ..row() };
        [-0.375, -0.125, 0.125, 0.875, 1.125, 1.375, 2.125].map(|x| fetch(&texture, &[x]))
    };
    assert_eq!(found(AddressMode::Wrap), [12.0, 13.0, 10.0, 13.0, 10.0, 11.0, 10.0]);
    assert_eq!(found(AddressMode::Mirror), [11.0, 10.0, 10.0, 13.0, 13.0, 12.0, 10.0]);
    assert_eq!(found(AddressMode::Clamp), [10.0, 10.0, 10.0, 13.0, 13.0, 13.0, 13.0]);
    assert_eq!(found(AddressMode::Border), [0.0, 0.0, 10.0, 13.0, 0.0, 0.0, 0.0]);
}

#[test]
fn wrapping_needs_normalized_coordinates() {
    let row = Texture { modes: [AddressMode::Wrap; 3], ..row() };
    assert_eq!(fetch(&row, &[5.0]), 13.0);
}

#[test]
fn linear_weights_have_eight_fractional_bits() {
    let row = Texture { linear: true, ..row() };
    assert_eq!(fetch(&row, &[1.5]), 11.0, "the middle of a texel is the texel");
    assert_eq!(fetch(&row, &[2.0]), 11.5);
    assert_eq!(fetch(&row, &[1.5 + 0.3]), 11.0 + 77.0 / 256.0, "0.3 is 76.8 of 256");
    assert_eq!(fetch(&row, &[0.1]), 10.0);
    assert_eq!(fetch(&row, &[3.9]), 13.0);
}

#[test]
fn linear_filtering_mixes_with_the_border_and_around_the_edge() {
    let border = Texture { linear: true, modes: [AddressMode::Border; 3], border: [2.0; 4], ..row() };
    assert_eq!(fetch(&border, &[0.0]), 6.0);
    let wrap = Texture { linear: true, normalized: true, modes: [AddressMode::Wrap; 3], ..row() };
    assert_eq!(fetch(&wrap, &[0.0]), 11.5, "between the last and the first");
    let mirror = Texture { linear: true, normalized: true, modes: [AddressMode::Mirror; 3], ..row() };
    assert_eq!(fetch(&mirror, &[0.0]), 10.0, "between the first and itself");
}

#[test]
fn two_and_three_axes_are_weighed_one_by_one() {
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let value = |x: u64, y: u64, z: u64| (x + 10 * y + 100 * z) as f32;
    let plane = Texture { linear: true, ..texture(image(3, 3, 1, value)) };
    assert_eq!(fetch(&plane, &[1.75, 2.0]), 16.25);
    let volume = Texture { linear: true, ..texture(image(2, 2, 2, value)) };
    assert_eq!(fetch(&volume, &[1.0, 1.0, 1.0]), 55.5);
}

#[test]
fn integers_of_linear_memory_are_zero_outside() {
    let row = Texture { shape: Shape::Linear, ..row() };
    let found = [-1, 0, 3, 4].map(|x| {
        let request = Request { index: [x, 0, 0], integer: true, axes: 1, ..Request::default() };
        f32::from_bits(row.fetch(request)[0])
    });
    assert_eq!(found, [0.0, 10.0, 13.0, 0.0]);
}

#[test]
fn a_direction_chooses_a_face() {
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let faces = image(2, 2, 12, |x, y, z| (100 * z + 10 * y + x) as f32);
    let cube = Texture { shape: Shape::LayeredCube, normalized: true, ..texture(faces) };
    let look = |at: [f32; 3], layer| {
        let request = Request { at, axes: 3, cube: true, layer, ..Request::default() };
        f32::from_bits(cube.fetch(request)[0])
    };
    // s and t grow with -z and -y on the first face, and so on round the table of the guide.
    assert_eq!(look([1.0, 0.5, 0.5], 0), 0.0);
    assert_eq!(look([1.0, -0.5, -0.5], 0), 11.0);
    assert_eq!(look([-1.0, 0.5, 0.5], 0), 101.0);
    assert_eq!(look([0.5, 1.0, 0.5], 0), 211.0);
    assert_eq!(look([0.5, -1.0, 0.5], 0), 301.0);
    assert_eq!(look([0.5, 0.5, 1.0], 0), 401.0);
    assert_eq!(look([0.5, 0.5, -1.0], 1), 1100.0);
    assert_eq!(look([0.5, 0.5, -1.0], 9), 1100.0, "a layer too many is the last");
}

#[test]
fn a_gather_answers_the_texels_around_counterclockwise() {
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let plane = texture(image(4, 4, 1, |x, y, _| (10 * y + x) as f32));
    let request = Request { at: [2.0, 1.0, 0.0], axes: 2, ..Request::default() };
    assert_eq!(plane.gather(request, 0).map(f32::from_bits), [11.0, 12.0, 2.0, 1.0]);
}

#[test]
fn levels_are_chosen_and_mixed() {
    let level = |extent, value| image(extent, 1, 1, move |_, _, _| value);
    let levels = vec![level(4, 1.0), level(2, 2.0), level(1, 4.0)];
    let mut texture = Texture { levels, normalized: true, mipmap_range: (0.0, 99.0), ..row() };
    let at = |texture: &Texture, level| {
        let request = Request { at: [0.5, 0.0, 0.0], axes: 1, level, ..Request::default() };
        f32::from_bits(texture.fetch(request)[0])
    };
    assert_eq!([-1.0, 0.4, 0.6, 9.0, f32::NAN].map(|lod| at(&texture, lod)), [1.0, 1.0, 2.0, 4.0, 1.0]);
    texture.mipmap_linear = true;
    assert_eq!(at(&texture, 1.5), 3.0);
    assert_eq!(texture.level_of([0.5, 0.0, 0.0], [0.0; 3], 1), 1.0);
}

#[test]
fn coordinates_that_are_no_numbers_are_harmless() {
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        for modes in [AddressMode::Wrap, AddressMode::Clamp, AddressMode::Mirror, AddressMode::Border] {
            for linear in [false, true] {
                let texture = Texture { linear, normalized: true, modes: [modes; 3], ..row() };
                fetch(&texture, &[x]);
            }
        }
    }
}
