//! What an answer holds until the connection has written it.
//!
//! Promise: a guard that was added before a piece of the answer's data was asked for is dropped
//! when that data is: after its last byte went to the socket, or when it never will. That the body
//! is at its end says nothing of it: HTTP/2 queues data for as long as the client does not read.
//! Not known here: what the guards guard.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Put among a response's extensions by who answers. Cloning shares it.
#[derive(Clone, Default)]
pub struct SendGuards {
    waiting: Arc<Mutex<Vec<Guard>>>,
}

type Guard = Box<dyn Send>;

/// Data, and what is dropped with it.
struct Guarded {
    data: Bytes,
    _guards: Vec<Guard>,
}

impl SendGuards {
    /// For the data that comes next.
    pub fn add(&self, guard: impl Send + 'static) {
        self.waiting.lock().push(Box::new(guard));
    }

    /// The data, with the guards that were added since the last.
    pub fn attach(&self, data: Bytes) -> Bytes {
        let guards = std::mem::take(&mut *self.waiting.lock());
        if guards.is_empty() {
            return data;
        }
        Bytes::from_owner(Guarded {
            data,
            _guards: guards,
        })
    }
}

impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl fmt::Debug for SendGuards {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.lock().len();
        formatter
            .debug_struct("SendGuards")
            .field("waiting", &waiting)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_goes_with_the_next_data_to_its_last_byte() {
        let guards = SendGuards::default();
        let guard = Arc::new(());
        guards.add(Arc::clone(&guard));
        let mut data = guards.attach(Bytes::from_static(b"first"));
        let next = guards.attach(Bytes::from_static(b"next"));
        assert_eq!((&data[..], &next[..]), (&b"first"[..], &b"next"[..]));
        let rest = data.split_off(3);
        drop(data);
        assert_eq!(Arc::strong_count(&guard), 2);
        drop(rest);
        assert_eq!(Arc::strong_count(&guard), 1);
        drop(next);
    }

    #[test]
    fn a_guard_whose_data_never_comes_goes_with_the_answer() {
        let guards = SendGuards::default();
        let guard = Arc::new(());
        guards.add(Arc::clone(&guard));
        drop(guards);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
