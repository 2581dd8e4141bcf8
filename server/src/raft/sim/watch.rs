//! A watch channel whose waiters wake in the order in which they came. tokio's wakes them in a
//! random one, which no seed reaches.

use std::sync::Arc;

use openraft::rt::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::{Notify, watch};

pub struct OrderedWatch;

pub struct Sender<T>(Arc<Shared<T>>);

struct Shared<T> {
    /// Taken when the last sender is dropped, before the receivers are told.
    value: Option<watch::Sender<T>>,
    news: Arc<Notify>,
}

pub struct Receiver<T> {
    value: watch::Receiver<T>,
    news: Arc<Notify>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            news: Arc::clone(&self.news),
        }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        self.value = None;
        self.news.notify_waiters();
    }
}

impl<T> Sender<T> {
    fn value(&self) -> &watch::Sender<T> {
        self.0
            .value
            .as_ref()
            .expect("taken only when it is dropped")
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, value) = watch::channel(init);
        let news = Arc::new(Notify::new());
        let shared = Shared {
            value: Some(sender),
            news: Arc::clone(&news),
        };
        (Sender(Arc::new(shared)), Receiver { value, news })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        let sent = self.value().send(value);
        self.0.news.notify_waiters();
        sent.map_err(|error| SendError(error.0))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = self.value().send_if_modified(modify);
        if modified {
            self.0.news.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value().borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver {
            value: self.value().subscribe(),
            news: Arc::clone(&self.0.news),
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let news = Arc::clone(&self.news);
        loop {
            let mut told = std::pin::pin!(news.notified());
            told.as_mut().enable();
            match self.value.has_changed() {
                Ok(true) => {
                    self.value.mark_unchanged();
                    return Ok(());
                }
                Ok(false) => told.await,
                Err(_) => return Err(RecvError(())),
            }
        }
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.value.borrow_and_update()
    }
}
