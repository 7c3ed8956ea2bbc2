//! How many of the connections each server is to have.

#![forbid(unsafe_code)]

use pen_config::ids::ServerId;

/// A server that takes part: new clients can use it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seat {
    pub(super) server: ServerId,
    /// Its part of the whole, in proportion to the others'; at least 1.
    pub(super) weight: u64,
    /// Most connections of new clients that it takes; none = no limit.
    pub(super) limit: Option<u32>,
    /// Its present connections.
    pub(super) connections: u32,
}

/// A share, which need not be a whole number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Share {
    /// The whole number at or below it.
    pub(super) below: u32,
    /// The whole number at or above it.
    pub(super) above: u32,
}

/// The shares of all servers in `total` connections. What a server's limit keeps it from having is
/// shared by the others.
pub(super) fn shares(seats: &[Seat], total: u64) -> Vec<Share> {
    let mut limited: Vec<Option<u32>> = vec![None; seats.len()];
    loop {
        let given: u64 = limited.iter().flatten().map(|limit| u64::from(*limit)).sum();
        let rest = u128::from(total.saturating_sub(given));
        let free = seats.iter().zip(&limited).filter(|(_, limit)| limit.is_none());
        let weights: u128 = free.map(|(seat, _)| u128::from(seat.weight)).sum();
        let mut is_new = false;
        for (seat, limit) in seats.iter().zip(&mut limited) {
            let exceeds = |most: &u32| rest * u128::from(seat.weight) > u128::from(*most) * weights;
            if limit.is_none() {
                *limit = seat.limit.filter(exceeds);
                is_new |= limit.is_some();
            }
        }
        if !is_new {
            let share = |(seat, limit): (&Seat, Option<u32>)| match limit {
                Some(limit) => Share { below: limit, above: limit },
                None => {
                    let part = rest * u128::from(seat.weight);
                    let whole = |part: u128| u32::try_from(part).unwrap_or(u32::MAX);
                    // There is a weight, because this server has one.
                    Share { below: whole(part / weights), above: whole(part.div_ceil(weights)) }
                }
            };
            return seats.iter().zip(limited).map(share).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seats(each: &[(u64, Option<u32>)]) -> Vec<Seat> {
        let seat = |(number, (weight, limit)): (u16, &(u64, Option<u32>))| Seat {
            server: ServerId(number),
            weight: *weight,
            limit: *limit,
            connections: 0,
        };
        (0..).zip(each).map(seat).collect()
    }

    fn shared(each: &[(u64, Option<u32>)], total: u64) -> Vec<(u32, u32)> {
        shares(&seats(each), total).iter().map(|share| (share.below, share.above)).collect()
    }

    #[test]
    fn shares_follow_the_weights_and_limits_pass_on_what_they_leave() {
        let free = (1, None);
        assert_eq!(shared(&[], 7), []);
        assert_eq!(shared(&[free], 7), [(7, 7)]);
        assert_eq!(shared(&[free, free], 7), [(3, 4), (3, 4)]);
        assert_eq!(shared(&[(1, None), (2, None)], 9), [(3, 3), (6, 6)]);
        assert_eq!(shared(&[free, (1, Some(2)), free], 12), [(5, 5), (2, 2), (5, 5)]);
        // The first limit makes the second one matter.
        assert_eq!(shared(&[free, (1, Some(2)), (1, Some(5))], 15), [(8, 8), (2, 2), (5, 5)]);
        // More than all can have.
        assert_eq!(shared(&[(1, Some(2)), (9, Some(5))], 15), [(2, 2), (5, 5)]);
        assert_eq!(shared(&[(u64::MAX / 2, None); 2], u64::MAX), [(u32::MAX, u32::MAX); 2]);
    }

    proptest! {
        #[test]
        fn all_is_shared_as_far_as_limits_allow(
            each in prop::collection::vec((1u64..9, prop::option::of(0u32..50)), 1..12),
            total in 0u64..1000,
        ) {
            let shares = shared(&each, total);
            let (below, above) = shares.iter().fold((0, 0), |(below, above), share| {
                (below + u64::from(share.0), above + u64::from(share.1))
            });
            let room = each.iter().try_fold(0, |room, (_, limit)| Some(room + u64::from((*limit)?)));
            let expected = room.map_or(total, |room| room.min(total));
            prop_assert!(below <= expected && expected <= above, "{shares:?}");
            for ((_, limit), (below, above)) in each.iter().zip(&shares) {
                prop_assert!(above - below <= 1);
                prop_assert!(limit.is_none_or(|limit| *above <= limit));
            }
        }
    }
}
