package storage

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
)

// Objects that expire at about the same time share a lease, and go with it.
func TestEventsShareALease(t *testing.T) {
	ctx, w := newWorld(t)
	// A twentieth of it is how far apart they may be.
	const events, ttl = 20, 20
	for i := range events {
		key := fmt.Sprintf("/pods/events/%d", i)
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Name: strconv.Itoa(i), Namespace: "events"}}
		if err := w.Create(ctx, key, pod, &example.Pod{}, ttl); err != nil {
			t.Fatal(err)
		}
	}
	read, err := w.client.KV.Get(ctx, w.prefix+"/pods/events/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	leases := map[int64]bool{}
	for _, kv := range read.Kvs {
		leases[kv.Lease] = true
	}
	if len(read.Kvs) != events || len(leases) >= events || leases[0] {
		t.Fatalf("%d events hang on %d leases", len(read.Kvs), len(leases))
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		stats, err := w.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if stats.ObjectCount == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events outlive their lease", stats.ObjectCount)
		}
	}
}

// Of several API servers one compacts in each round; whoever reads from before is told to read again.
func TestCompactorsAgree(t *testing.T) {
	ctx, w := newWorld(t)
	first := w.increase(ctx, t)
	w.increase(ctx, t)
	_, now, _, err := etcd3.Compact(ctx, w.client.Client, 0, first)
	if err != nil {
		t.Fatal(err)
	}
	compactors := []interface{ Stop() }{
		etcd3.StartCompactorPerEndpoint(w.client.Client, 200*time.Millisecond),
		etcd3.StartCompactorPerEndpoint(w.client.Client, 200*time.Millisecond),
	}
	for _, compactor := range compactors {
		defer compactor.Stop()
	}
	for deadline := time.Now().Add(60 * time.Second); w.CompactRevision() < now; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("compacted at %d after a minute", w.CompactRevision())
		}
		w.increase(ctx, t)
	}
	options := storage.ListOptions{ResourceVersion: strconv.FormatInt(first, 10),
		ResourceVersionMatch: metav1.ResourceVersionMatchExact, Predicate: storage.Everything, Recursive: true}
	err = w.GetList(ctx, "/pods/", options, &example.PodList{})
	if !storage.IsTooLargeResourceVersion(err) && (err == nil || !isExpired(err)) {
		t.Fatalf("a list from before the compaction: %v", err)
	}
}

func isExpired(err error) bool {
	status, is := err.(interface{ Status() metav1.Status })
	return is && status.Status().Reason == metav1.StatusReasonExpired
}

// A counter goes up by one in each update and a watch tells each of them, whoever leads and whoever dies.
func TestUpdatesOverLeaderKill(t *testing.T) {
	if len(endpoints) < 3 {
		t.Skip("one member has nobody to take over")
	}
	ctx, w := newWorld(t)
	const key, updates = "/pods/counting/counter", 60
	pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Name: "counter", Namespace: "counting"}}
	created := &example.Pod{}
	if err := w.Create(ctx, key, pod, created, 0); err != nil {
		t.Fatal(err)
	}
	watcher, err := w.Watch(ctx, key, storage.ListOptions{ResourceVersion: created.ResourceVersion, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	count := func() {
		next := func(object runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
			pod := object.(*example.Pod)
			number, _ := strconv.Atoi(pod.Annotations["count"])
			pod.Annotations = map[string]string{"count": strconv.Itoa(number + 1)}
			return pod, nil, nil
		}
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if err := w.GuaranteedUpdate(ctx, key, &example.Pod{}, false, nil, next, nil); err == nil {
				return
			} else if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	for i := range updates {
		switch i {
		case updates / 3:
			ask(t, "kill-leader")
		case 2 * updates / 3:
			ask(t, "restart")
		}
		count()
	}
	// An update that broke off may have been done, and was then done again: never less, and none left out.
	last := 0
	for last < updates {
		select {
		case event, open := <-watcher.ResultChan():
			if !open || event.Type != watch.Modified {
				t.Fatalf("the watch ends after %d with %v", last, event)
			}
			number, _ := strconv.Atoi(event.Object.(*example.Pod).Annotations["count"])
			if number != last+1 {
				t.Fatalf("%d follows %d", number, last)
			}
			last = number
		case <-time.After(60 * time.Second):
			t.Fatalf("the watch says no more after %d", last)
		}
	}
}
