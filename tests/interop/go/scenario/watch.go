package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A program's cache: listed once, then kept by the watch alone.
type cache map[string]string

func (c cache) follow(events []*clientv3.Event) {
	for _, event := range events {
		if event.Type == clientv3.EventTypeDelete {
			delete(c, string(event.Kv.Key))
		} else {
			c[string(event.Kv.Key)] = string(event.Kv.Value)
		}
	}
}

func (c cache) is(kvs *clientv3.GetResponse) error {
	for _, kv := range kvs.Kvs {
		if err := must(c[string(kv.Key)] == string(kv.Value), "%s is %q, the cache has %q", kv.Key, kv.Value, c[string(kv.Key)]); err != nil {
			return err
		}
	}
	return must(len(c) == len(kvs.Kvs), "%d keys, the cache has %d", len(kvs.Kvs), len(c))
}

// churn writes and deletes until told to stop; it returns the newest revision it made.
func churn(ctx context.Context, client *clientv3.Client, prefix string, stop *atomic.Bool) (revision int64, err error) {
	for number := 0; !stop.Load(); number++ {
		key := fmt.Sprintf("%s%02d", prefix, number%20)
		if number%3 == 2 {
			deleted, err := client.Delete(ctx, key)
			if err != nil {
				return 0, err
			}
			revision = deleted.Header.Revision
			continue
		}
		put, err := client.Put(ctx, key, fmt.Sprint(number))
		if err != nil {
			return 0, err
		}
		revision = put.Header.Revision
	}
	return revision, nil
}

// followUntil keeps a cache until the key is told of, which is written last.
func followUntil(told clientv3.WatchChan, known cache, from int64, key string) error {
	last := from
	for {
		select {
		case message, open := <-told:
			if !open || message.Err() != nil {
				return fmt.Errorf("the watch ended: %w", message.Err())
			}
			for _, event := range message.Events {
				if err := must(event.Kv.ModRevision >= last, "revision %d after %d", event.Kv.ModRevision, last); err != nil {
					return err
				}
				last = event.Kv.ModRevision
				if string(event.Kv.Key) == key {
					return nil
				}
				known.follow([]*clientv3.Event{event})
			}
		case <-time.After(30 * time.Second):
			return fmt.Errorf("nothing after revision %d on the way to %s", last, key)
		}
	}
}

func listThenWatch(ctx context.Context, w *world) error {
	var stop atomic.Bool
	type end struct {
		revision int64
		err      error
	}
	ended := make(chan end, 1)
	go func() {
		revision, err := churn(ctx, w.client, w.prefix, &stop)
		ended <- end{revision, err}
	}()
	// While it churns, caches are opened one after the other; each must have no hole.
	var caches []cache
	var watches []clientv3.WatchChan
	var froms []int64
	for range 10 {
		listed, err := w.other.Get(ctx, w.prefix, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		known := cache{}
		for _, kv := range listed.Kvs {
			known[string(kv.Key)] = string(kv.Value)
		}
		from := listed.Header.Revision + 1
		// Later than the list: what happens in between comes from history.
		time.Sleep(20 * time.Millisecond)
		watches = append(watches, w.other.Watch(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(from)))
		caches, froms = append(caches, known), append(froms, from)
	}
	stop.Store(true)
	last := <-ended
	if last.err != nil {
		return last.err
	}
	mark := w.prefix + "~"
	marked, err := w.client.Put(ctx, mark, "")
	if err != nil {
		return err
	}
	truth, err := w.other.Get(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(marked.Header.Revision-1))
	if err != nil {
		return err
	}
	for i := range watches {
		if err := followUntil(watches[i], caches[i], froms[i], mark); err != nil {
			return err
		}
		if err := caches[i].is(truth); err != nil {
			return err
		}
	}
	return nil
}

func watchAfterCompaction(ctx context.Context, w *world) error {
	key := w.prefix + "k"
	var revisions []int64
	for i := range 10 {
		put, err := w.client.Put(ctx, key, fmt.Sprint(i))
		if err != nil {
			return err
		}
		revisions = append(revisions, put.Header.Revision)
	}
	if _, err := w.client.Compact(ctx, revisions[5], clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	told := <-w.other.Watch(ctx, key, clientv3.WithRev(revisions[1]))
	if err := must(told.Canceled && errors.Is(told.Err(), rpctypes.ErrCompacted), "a watch from a compacted revision: %v", told); err != nil {
		return err
	}
	if err := must(told.CompactRevision == revisions[5], "compacted at %d, told %d", revisions[5], told.CompactRevision); err != nil {
		return err
	}
	// It resumes where it is told that it can.
	again := w.other.Watch(ctx, key, clientv3.WithRev(told.CompactRevision))
	next := 5
	for next < 10 {
		message := <-again
		if err := message.Err(); err != nil {
			return err
		}
		for _, event := range message.Events {
			if err := must(event.Kv.ModRevision == revisions[next], "revision %d, not %d", event.Kv.ModRevision, revisions[next]); err != nil {
				return err
			}
			next++
		}
	}
	if _, err := w.client.Get(ctx, key, clientv3.WithRev(revisions[1])); !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("a read of a compacted revision: %v", err)
	}
	_, err := w.client.Compact(ctx, revisions[1])
	return must(errors.Is(err, rpctypes.ErrCompacted), "compacted again: %v", err)
}

func watchOptions(ctx context.Context, w *world) error {
	key := w.prefix + "k"
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	puts := w.other.Watch(own, key, clientv3.WithFilterDelete(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	deletes := w.other.Watch(own, key, clientv3.WithFilterPut(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	for _, created := range []clientv3.WatchChan{puts, deletes} {
		if message := <-created; !message.Created {
			return fmt.Errorf("not created: %v", message)
		}
	}
	for _, value := range []string{"1", "2"} {
		if _, err := w.client.Put(ctx, key, value); err != nil {
			return err
		}
	}
	if _, err := w.client.Delete(ctx, key); err != nil {
		return err
	}
	var seen []string
	for len(seen) < 2 {
		for _, event := range (<-puts).Events {
			before := "none"
			if event.PrevKv != nil {
				before = string(event.PrevKv.Value)
			}
			seen = append(seen, before+">"+string(event.Kv.Value))
		}
	}
	if err := must(seen[0] == "none>1" && seen[1] == "1>2", "puts %v", seen); err != nil {
		return err
	}
	gone := <-deletes
	if err := must(len(gone.Events) == 1 && string(gone.Events[0].PrevKv.Value) == "2", "deletes %v", gone.Events); err != nil {
		return err
	}
	if err := w.other.RequestProgress(own); err != nil {
		return err
	}
	progress := <-puts
	if err := must(progress.IsProgressNotify() && progress.Header.Revision >= gone.Header.Revision, "progress %v", progress); err != nil {
		return err
	}
	cancel()
	// The progress was told to every watch of the stream; after it nothing comes.
	for range deletes {
	}
	return nil
}

func watchOverLeaderKill(ctx context.Context, w *world) error {
	listed, err := w.other.Get(ctx, w.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	told := w.other.Watch(clientv3.WithRequireLeader(ctx), w.prefix, clientv3.WithPrefix(), clientv3.WithRev(listed.Header.Revision+1))
	known := cache{}
	write := func(number int) error {
		return again(ctx, func() error {
			_, err := w.client.Put(ctx, fmt.Sprintf("%s%02d", w.prefix, number), fmt.Sprint(number))
			return err
		})
	}
	for number := range 10 {
		if err := write(number); err != nil {
			return err
		}
	}
	if err := w.ask("kill-leader"); err != nil {
		return err
	}
	for number := 10; number < 20; number++ {
		if err := write(number); err != nil {
			return err
		}
	}
	// A watch that asks for a leader may be told of its loss; a program then goes on where it was.
	last := listed.Header.Revision
	for len(known) < 20 {
		select {
		case message, open := <-told:
			if !open || message.Err() != nil {
				told = w.other.Watch(clientv3.WithRequireLeader(ctx), w.prefix, clientv3.WithPrefix(), clientv3.WithRev(last+1))
				time.Sleep(50 * time.Millisecond)
				continue
			}
			for _, event := range message.Events {
				if err := must(event.Kv.ModRevision > last, "revision %d after %d", event.Kv.ModRevision, last); err != nil {
					return err
				}
				last = event.Kv.ModRevision
			}
			known.follow(message.Events)
		case <-ctx.Done():
			return fmt.Errorf("told of %d keys: %w", len(known), ctx.Err())
		}
	}
	return w.ask("restart")
}
