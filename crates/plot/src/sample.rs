//! Every sample of every series, and their medians as bars.

use plotters::prelude::*;

use crate::axis::from_zero;
use crate::error::drawing;
use crate::{Axis, FONT, LABEL_PIXELS, MARGIN, PlotError, SIZE, TITLE_PIXELS};

/// Series of repeated measurements of one thing, side by side.
#[derive(Debug, Clone)]
pub struct SampleChart {
    pub title: String,
    pub y: Axis,
    pub series: Vec<Samples>,
}

/// What one series measured, in any order.
#[derive(Debug, Clone)]
pub struct Samples {
    pub name: String,
    pub values: Vec<f64>,
}

impl SampleChart {
    /// The text of an SVG file: a dot for every sample, a bar as high as the median, and the names below.
    pub fn svg(&self) -> Result<String, PlotError> {
        for series in &self.series {
            if let Some(value) = series.values.iter().find(|value| !value.is_finite()) {
                return Err(PlotError::NotFinite { series: series.name.clone(), value: *value });
            }
        }
        let top = from_zero(self.series.iter().flat_map(|series| series.values.iter().copied()))?;
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(drawing)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, (FONT, TITLE_PIXELS))
            .margin(MARGIN)
            .x_label_area_size(2 * LABEL_PIXELS)
            .y_label_area_size(5 * LABEL_PIXELS)
            .build_cartesian_2d((0..self.series.len().saturating_sub(1)).into_segmented(), 0.0..top)
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .y_desc(self.y.description())
            .x_labels(self.series.len())
            .x_label_formatter(&|place| match place {
                SegmentValue::CenterOf(index) => {
                    self.series.get(*index).map_or_else(String::new, |series| series.name.clone())
                }
                _ => String::new(),
            })
            .y_label_formatter(&|y| self.y.tick(*y))
            .axis_desc_style((FONT, LABEL_PIXELS))
            .label_style((FONT, LABEL_PIXELS))
            .draw()
            .map_err(drawing)?;
        for (index, series) in self.series.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let bar = series.median().map(|median| {
                let corners = [(SegmentValue::Exact(index), 0.0), (SegmentValue::Exact(index + 1), median)];
                let mut bar = Rectangle::new(corners, color.mix(0.25).filled());
                bar.set_margin(0, 0, BAR_MARGIN, BAR_MARGIN);
                bar
            });
            chart.draw_series(bar).map_err(drawing)?;
            let dots = series.values.iter();
            let dots = dots.map(|value| {
                Circle::new((SegmentValue::CenterOf(index), *value), 3, color.mix(0.6).filled())
            });
            chart.draw_series(dots).map_err(drawing)?;
        }
        area.present().map_err(drawing)?;
        drop((chart, area));
        Ok(text)
    }
}

impl Samples {
    fn median(&self) -> Option<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// Pixels between a bar and the border of its place.
const BAR_MARGIN: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_and_every_name_is_in_the_picture() {
        let series = ["local", "remote"].into_iter().zip([vec![1.0, 2.0, 4.0], vec![20.0, 30.0]]);
        let series = series.map(|(name, values)| Samples { name: name.to_owned(), values }).collect();
        let y = Axis::new("time", "us");
        let svg = SampleChart { title: "A synchronous call".to_owned(), y, series }.svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 5);
        assert_eq!(svg.matches("<rect").count(), 1 + 2, "the background and two bars");
        for text in ["local", "remote", "A synchronous call", "time [us]"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
    }

    #[test]
    fn what_cannot_be_shown_is_named() {
        let chart = |values: Vec<f64>| {
            let series = vec![Samples { name: "only".to_owned(), values }];
            SampleChart { title: String::new(), y: Axis::new("time", "us"), series }.svg()
        };
        assert_eq!(chart(vec![]), Err(PlotError::Empty));
        assert!(matches!(chart(vec![f64::INFINITY]), Err(PlotError::NotFinite { .. })));
        assert!(chart(vec![1.0]).is_ok());
    }
}
