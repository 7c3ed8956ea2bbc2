//! Counts of equal periods as rates a second.

use crate::History;

/// The lines show so many seconds.
const SPAN: u32 = 300;

/// The rates of new connections or of bytes in each period, oldest first.
pub(super) struct Rates {
    rates: Vec<f64>,
    /// Seconds.
    period: u32,
}

impl Rates {
    /// New connections a second.
    pub(super) fn of(history: &History) -> Rates {
        Rates::new(history.period, history.connections.iter().map(|count| f64::from(*count)))
    }

    /// Bytes a second, both directions together.
    pub(super) fn bytes(history: &History) -> Rates {
        Rates::new(history.period, history.bytes.iter().map(|bytes| *bytes as f64))
    }

    fn new(period: u32, counts: impl Iterator<Item = f64>) -> Rates {
        let period = period.max(1);
        Rates { rates: counts.map(|count| count / f64::from(period)).collect(), period }
    }

    /// The last one; none without a history.
    pub(super) fn now(&self) -> Option<f64> {
        self.rates.last().copied()
    }

    /// The highest one.
    pub(super) fn most(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// How many periods a line shows.
    pub(super) fn periods(&self) -> usize {
        (SPAN / self.period).max(1) as usize
    }

    /// Whether there is a rate for each of them.
    pub(super) fn is_whole(&self) -> bool {
        self.rates.len() >= self.periods()
    }

    /// So many points at most: means of equally many periods, up to the last one; none where there
    /// was no rate yet.
    pub(super) fn drawing(&self, points: usize) -> Vec<Option<f64>> {
        let each = self.periods().div_ceil(points).max(1);
        let mean = |part: &[f64]| Some(part.iter().sum::<f64>() / part.len() as f64);
        let mut drawing: Vec<Option<f64>> = self.rates.rchunks(each).map(mean).collect();
        drawing.resize(self.periods().div_ceil(each), None);
        drawing.reverse();
        drawing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_ends_with_the_last_period() {
        let history = History { period: 100, connections: vec![300, 100, 200], bytes: vec![] };
        let rates = Rates::of(&history);
        assert_eq!((rates.now(), rates.most(), rates.is_whole()), (Some(2.0), 3.0, true));
        assert_eq!(rates.drawing(3), [Some(3.0), Some(1.0), Some(2.0)]);
        assert_eq!(rates.drawing(2), [Some(3.0), Some(1.5)]);
        let rates = Rates::of(&History { connections: vec![100], ..history });
        assert_eq!((rates.drawing(3), rates.is_whole()), (vec![None, None, Some(1.0)], false));
        let rates = Rates::bytes(&History { period: 0, ..History::default() });
        assert_eq!((rates.now(), rates.most()), (None, 0.0));
        assert_eq!(rates.drawing(30), vec![None; 30]);
    }
}
