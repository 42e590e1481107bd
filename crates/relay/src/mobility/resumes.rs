//! [`Resumes`]: from which five-tuples clients are about to go on, until they do so or too much time
//! has passed.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use crate::address::{AllocationId, FiveTuple, Link};

/// The unfinished resumptions whose new five-tuple is one shard's.
#[derive(Default)]
pub(crate) struct Resumes {
    by_tuple: BTreeMap<Key, Resume>,
    /// By `mono_ns` and a number.
    deadlines: BTreeMap<(u64, u64), FiveTuple>,
    count: u64,
}

/// A client that may go on from a five-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resume {
    /// How it is reached there.
    pub(crate) link: Link,
    pub(crate) goes_on_with: GoesOnWith,
    until: (u64, u64),
}

/// What a client is about to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoesOnWith {
    /// An allocation of this shard.
    Ours(AllocationId),
    /// An allocation of another shard, by its number.
    Others(u64),
}

type Key = (SocketAddr, SocketAddr, usize);

fn key(tuple: &FiveTuple) -> Key {
    (tuple.client, tuple.server, tuple.transport.index())
}

impl Resumes {
    /// Gives what was remembered of the five-tuple before.
    pub(crate) fn insert(
        &mut self,
        tuple: &FiveTuple,
        link: Link,
        goes_on_with: GoesOnWith,
        until_ns: u64,
    ) -> Option<Resume> {
        let displaced = self.remove(tuple);
        self.count += 1;
        let until = (until_ns, self.count);
        self.deadlines.insert(until, *tuple);
        self.by_tuple.insert(key(tuple), Resume { link, goes_on_with, until });
        displaced
    }

    pub(crate) fn get(&self, tuple: &FiveTuple) -> Option<&Resume> {
        self.by_tuple.get(&key(tuple))
    }

    pub(crate) fn remove(&mut self, tuple: &FiveTuple) -> Option<Resume> {
        let resume = self.by_tuple.remove(&key(tuple))?;
        self.deadlines.remove(&resume.until);
        Some(resume)
    }

    /// Forgets the next one that nobody went on with until `now_ns`.
    pub(crate) fn expire(&mut self, now_ns: u64) -> Option<(FiveTuple, Resume)> {
        let (&(until_ns, _), &tuple) = self.deadlines.first_key_value()?;
        let resume = (until_ns <= now_ns).then(|| self.remove(&tuple))??;
        Some((tuple, resume))
    }

    /// When [`Self::expire`] wants to be called next.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.deadlines.first_key_value().map(|(&(until_ns, _), _)| until_ns)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_tuple.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_tuple.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Transport;

    fn tuple(port: u16) -> FiveTuple {
        let client = ([192, 0, 2, 1], port).into();
        let server = ([203, 0, 113, 7], 3478).into();
        FiveTuple { transport: Transport::Udp, client, server }
    }

    #[test]
    fn each_is_forgotten_at_its_time_unless_it_was_taken() {
        let mut resumes = Resumes::default();
        for (port, until_ns) in [(1, 30), (2, 10), (3, 20), (2, 40)] {
            resumes.insert(&tuple(port), Link(0), GoesOnWith::Others(u64::from(port)), until_ns);
        }
        assert_eq!((resumes.len(), resumes.due_ns()), (3, Some(20)));
        assert!(resumes.remove(&tuple(1)).is_some());
        assert!(resumes.get(&tuple(1)).is_none() && resumes.remove(&tuple(1)).is_none());
        assert_eq!(resumes.expire(19), None);
        assert_eq!(resumes.expire(40).map(|(tuple, _)| tuple.client.port()), Some(3));
        assert_eq!(resumes.expire(40).map(|(tuple, _)| tuple.client.port()), Some(2));
        assert_eq!((resumes.expire(40), resumes.due_ns()), (None, None));
        assert!(resumes.is_empty() && resumes.deadlines.is_empty());
    }

    #[test]
    fn another_transport_is_another_tuple() {
        let mut resumes = Resumes::default();
        resumes.insert(&tuple(1), Link(0), GoesOnWith::Others(1), 1);
        let tls = FiveTuple { transport: Transport::Tls, ..tuple(1) };
        assert!(resumes.get(&tls).is_none());
    }
}
