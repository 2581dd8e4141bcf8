package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
)

// load counts what one kind of request met.
type load struct {
	kind     string
	done     atomic.Int64
	mu       sync.Mutex
	refusals map[string]int
	// of each worker
	last []time.Time
	gap  time.Duration
}

// tally is what a harness reads.
type tally struct {
	Kind     string         `json:"kind"`
	Done     int64          `json:"done"`
	Failed   int            `json:"failed"`
	Refusals map[string]int `json:"refusals,omitempty"`
	// the longest time that one of the workers went without a success
	GapMs int64 `json:"gap_ms"`
}

func newLoad(kind string, workers int) *load {
	l := &load{kind: kind, refusals: map[string]int{}, last: make([]time.Time, workers)}
	for i := range l.last {
		l.last[i] = time.Now()
	}
	return l
}

func (l *load) met(worker int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.gap = max(l.gap, now.Sub(l.last[worker]))
	if err != nil {
		l.refusals[status.Code(err).String()+": "+err.Error()]++
		return
	}
	l.done.Add(1)
	l.last[worker] = now
}

func (l *load) tally() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := 0
	for _, count := range l.refusals {
		failed += count
	}
	return tally{l.kind, l.done.Load(), failed, l.refusals, l.gap.Milliseconds()}
}

// Every member is stopped with SIGTERM and started again, one after the other, while programs go on writing, reading,
// watching and keeping their leases. What failed is told; what was acknowledged must be there, be told in order and once.
func rollingRestart(ctx context.Context, w *world) error {
	const writers, readers, holders = 4, 4, 4
	working, stop := context.WithCancel(ctx)
	defer stop()
	puts, gets, renewals := newLoad("put", writers), newLoad("get", readers), newLoad("keep-alive", holders)
	acknowledged := make([][]string, writers)
	var all sync.WaitGroup

	beginning, err := w.client.Get(ctx, w.prefix)
	if err != nil {
		return err
	}
	watched := w.other.Watch(ctx, w.prefix+"put/", clientv3.WithPrefix(), clientv3.WithRev(beginning.Header.Revision+1))

	for writer := range writers {
		all.Go(func() {
			for i := 0; working.Err() == nil; i++ {
				key := fmt.Sprintf("%sput/%d/%06d", w.prefix, writer, i)
				_, err := w.client.Put(working, key, strconv.Itoa(i))
				if working.Err() != nil {
					return
				}
				puts.met(writer, err)
				if err == nil {
					acknowledged[writer] = append(acknowledged[writer], key)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	for reader := range readers {
		all.Go(func() {
			for working.Err() == nil {
				_, err := w.other.Get(working, w.prefix+"put/0/", clientv3.WithPrefix(), clientv3.WithLimit(5))
				if working.Err() != nil {
					return
				}
				gets.met(reader, err)
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	leases := make([]clientv3.LeaseID, holders)
	for holder := range holders {
		granted, err := w.client.Grant(ctx, 10)
		if err != nil {
			return err
		}
		leases[holder] = granted.ID
		kept, err := w.client.KeepAlive(working, granted.ID)
		if err != nil {
			return err
		}
		all.Go(func() {
			for range kept {
				renewals.met(holder, nil)
			}
			if working.Err() == nil {
				renewals.met(holder, fmt.Errorf("lease %d is no longer kept", holder))
			}
		})
	}
	for member := range w.endpoints {
		before := puts.done.Load()
		for puts.done.Load() < before+50 {
			time.Sleep(20 * time.Millisecond)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if err := w.ask(fmt.Sprintf("roll %d", member)); err != nil {
			return err
		}
	}
	before := puts.done.Load()
	for puts.done.Load() < before+50 && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	all.Wait()
	for _, one := range []*load{puts, gets, renewals} {
		line, err := json.Marshal(one.tally())
		if err != nil {
			return err
		}
		fmt.Printf("tally %s\n", line)
	}
	for _, lease := range leases {
		left, err := w.client.TimeToLive(ctx, lease)
		if err != nil {
			return err
		}
		if err := must(left.TTL > 0, "lease %x is gone", lease); err != nil {
			return err
		}
	}
	return toldOnce(ctx, w, watched, acknowledged)
}

// Everything that was acknowledged stands, and the watch has told it, in order, without a revision twice.
func toldOnce(ctx context.Context, w *world, watched clientv3.WatchChan, acknowledged [][]string) error {
	last, err := w.client.Put(ctx, w.prefix+"put/end", "")
	if err != nil {
		return err
	}
	told, revision := map[string]bool{}, int64(0)
	for revision < last.Header.Revision {
		select {
		case answer, open := <-watched:
			if !open || answer.Err() != nil {
				return fmt.Errorf("the watch ends: %v", answer.Err())
			}
			for _, event := range answer.Events {
				if event.Kv.ModRevision <= revision {
					return fmt.Errorf("revision %d is told after %d", event.Kv.ModRevision, revision)
				}
				revision = event.Kv.ModRevision
				told[string(event.Kv.Key)] = true
			}
		case <-ctx.Done():
			return fmt.Errorf("the watch says no more after revision %d", revision)
		}
	}
	for _, keys := range acknowledged {
		for _, key := range keys {
			if !told[key] {
				return fmt.Errorf("%s was acknowledged and not told", key)
			}
			delete(told, key)
		}
	}
	read, err := w.other.Get(ctx, w.prefix+"put/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	total := len(told)
	for _, keys := range acknowledged {
		total += len(keys)
	}
	return must(read.Count == int64(total), "%d keys stand, %d were told", read.Count, total)
}
