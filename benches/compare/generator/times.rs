//! The durations of units: a histogram with eight steps to each power of two, exact to 6 %.

/// Counted durations in microseconds.
#[derive(Debug)]
pub struct Times {
    counts: Vec<u64>,
    most: u64,
}

const STEPS: u64 = 8;

impl Default for Times {
    fn default() -> Times {
        Times { counts: vec![0; 64 * STEPS as usize], most: 0 }
    }
}

impl Times {
    /// Counts one unit.
    pub fn add(&mut self, microseconds: u64) {
        self.counts[step(microseconds)] += 1;
        self.most = self.most.max(microseconds);
    }

    /// The time within which a share of all units was done.
    pub fn quantile(&self, share: f64) -> u64 {
        let all: u64 = self.counts.iter().sum();
        let wanted = (all as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (step, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return end_of(step).min(self.most);
            }
        }
        self.most
    }

    /// The longest duration.
    pub fn most(&self) -> u64 {
        self.most
    }
}

fn step(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let power = u64::from(value.ilog2());
    ((power - 2) * STEPS + (value >> (power - 3)) - STEPS) as usize
}

fn end_of(step: usize) -> u64 {
    let step = step as u64;
    if step < STEPS {
        return step;
    }
    let power = step / STEPS + 2;
    ((step % STEPS + STEPS + 1) << (power - 3)) - 1
}
