//! Series of points over an axis that grows by powers.

use plotters::prelude::*;

use crate::axis::from_zero;
use crate::error::drawing;
use crate::{Axis, FONT, LABEL_PIXELS, MARGIN, PlotError, SIZE, TITLE_PIXELS};

/// Several series over one axis that grows by powers; the other starts at zero.
#[derive(Debug, Clone)]
pub struct LineChart {
    pub title: String,
    /// Grows by powers: every point lies above zero.
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

/// Points that are joined by a line, in their order.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl LineChart {
    /// The text of an SVG file: a circle for every point, a line for every series, and their names.
    pub fn svg(&self) -> Result<String, PlotError> {
        let (first, last) = self.x_range()?;
        let all = || self.series.iter().flat_map(|series| &series.points);
        let top = from_zero(all().map(|(_, y)| *y))?;
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(drawing)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, (FONT, TITLE_PIXELS))
            .margin(MARGIN)
            .x_label_area_size(3 * LABEL_PIXELS)
            .y_label_area_size(5 * LABEL_PIXELS)
            .build_cartesian_2d((first..last).log_scale().base(self.x.base()), 0.0..top)
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(TICKS)
            .x_desc(self.x.description())
            .y_desc(self.y.description())
            .x_label_formatter(&|x| self.x.tick(*x))
            .y_label_formatter(&|y| self.y.tick(*y))
            .axis_desc_style((FONT, LABEL_PIXELS))
            .label_style((FONT, LABEL_PIXELS - 2))
            .draw()
            .map_err(drawing)?;
        for (index, series) in self.series.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let points = || series.points.iter().copied();
            chart
                .draw_series(LineSeries::new(points(), color.stroke_width(2)))
                .map_err(drawing)?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
            let dots = points().map(|point| Circle::new(point, 3, color.filled()));
            chart.draw_series(dots).map_err(drawing)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, LABEL_PIXELS))
            .draw()
            .map_err(drawing)?;
        area.present().map_err(drawing)?;
        drop((chart, area));
        Ok(text)
    }

    /// From the first point to the last, and a little more if that is one place.
    fn x_range(&self) -> Result<(f64, f64), PlotError> {
        let mut ends: Option<(f64, f64)> = None;
        for series in &self.series {
            for (x, y) in &series.points {
                let strange = [x, y].into_iter().find(|value| !value.is_finite());
                if let Some(value) = strange {
                    return Err(PlotError::NotFinite { series: series.name.clone(), value: *value });
                }
                if *x <= 0.0 {
                    return Err(PlotError::NotPositive { series: series.name.clone(), x: *x });
                }
                ends = Some(ends.map_or((*x, *x), |(first, last)| (first.min(*x), last.max(*x))));
            }
        }
        let (first, last) = ends.ok_or(PlotError::Empty)?;
        Ok(if first < last { (first, last) } else { (first / 2.0, last * 2.0) })
    }
}

/// As many numbers as fit below the axis.
const TICKS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> LineChart {
        LineChart {
            title: "To the device".to_owned(),
            x: Axis::bytes("size"),
            y: Axis::new("bandwidth", "GB/s"),
            series,
        }
    }

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        Series { name: name.to_owned(), points: points.to_vec() }
    }

    #[test]
    fn every_point_and_every_name_is_in_the_picture() {
        let local = series("local, page-locked", &[(4096.0, 1.0), (65536.0, 9.5), (1048576.0, 20.0)]);
        let svg = chart(vec![local, series("remote <tcp>", &[(4096.0, 0.1), (65536.0, 0.8)])]).svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 5);
        let lines = svg.matches("stroke-width=\"2\"").count();
        assert_eq!(lines, 2 + 2, "the series, and these in the legend");
        for text in [
            "local, page-locked",
            "remote &lt;tcp&gt;",
            "To the device",
            "size",
            "bandwidth [GB/s]",
            "4 KiB",
            "1 MiB",
        ] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn one_point_is_a_chart_too() {
        let svg = chart(vec![series("one", &[(4096.0, 0.0)])]).svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
    }

    #[test]
    fn what_cannot_be_shown_is_named() {
        assert_eq!(chart(vec![]).svg(), Err(PlotError::Empty));
        assert_eq!(chart(vec![series("none", &[])]).svg(), Err(PlotError::Empty));
        let message = chart(vec![series("zero", &[(0.0, 1.0)])]).svg().unwrap_err().to_string();
        assert!(message.contains("zero") && message.contains("at 0"), "{message}");
        let message = chart(vec![series("odd", &[(1.0, f64::NAN)])]).svg().unwrap_err().to_string();
        assert!(message.contains("odd") && message.contains("NaN"), "{message}");
    }
}
