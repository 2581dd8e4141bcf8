// Scenario drives a server through etcd's own Go client and the packages built on it.
//
// Usage: go-scenario ENDPOINT[,ENDPOINT...] [SCENARIO...]; INTEROP_USER and INTEROP_PASSWORD log in.
//
// Without names every scenario runs that the number of endpoints allows. A scenario that needs the leader
// killed says `? kill-leader` on stdout and waits for a line on stdin; `? restart` brings the member back, and `? roll N`
// has the member N stopped with SIGTERM and started again.
// Exits 0 when all held.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// No scenario takes longer on a machine that works.
const within = 90 * time.Second

// world is what a scenario has at hand.
type world struct {
	endpoints      []string
	user, password string
	// one client of all endpoints, and another one of all endpoints: two programs of one user.
	client, other *clientv3.Client
	// prefix keeps the keys of scenarios apart.
	prefix string
	typed  *bufio.Scanner
}

type scenario struct {
	name string
	// members that it needs at least
	members int
	// played only if it is asked for by its name
	named bool
	run   func(context.Context, *world) error
}

func scenarios() []scenario {
	return []scenario{
		{"keys", 1, false, keys},
		{"large-values", 1, false, largeValues},
		{"nested-transactions", 1, false, nestedTransactions},
		{"compare-and-swap", 1, false, compareAndSwap},
		{"paging", 1, false, paging},
		{"range-stream", 1, false, rangeStream},
		{"list-then-watch", 1, false, listThenWatch},
		{"watch-after-compaction", 1, false, watchAfterCompaction},
		{"watch-options", 1, false, watchOptions},
		{"leases", 1, false, leases},
		{"mutex", 1, false, mutex},
		{"election", 1, false, election},
		{"stm", 1, false, stm},
		{"naming", 1, false, naming},
		{"leasing", 1, false, leasingClients},
		{"mirror", 1, false, mirroring},
		{"namespace", 1, false, namespaced},
		{"ordering", 1, false, ordered},
		{"yaml", 1, false, configured},
		{"kubernetes", 1, false, kubernetesInterface},
		{"login", 1, false, login},
		{"watch-over-leader-kill", 3, false, watchOverLeaderKill},
		{"keep-alive-over-leader-kill", 3, false, keepAliveOverLeaderKill},
		{"mutex-over-leader-kill", 3, false, mutexOverLeaderKill},
		{"election-over-leader-kill", 3, false, electionOverLeaderKill},
		{"rolling-restart", 3, true, rollingRestart},
	}
}

func main() {
	if len(os.Args) < 2 {
		fmt.Println("usage: go-scenario ENDPOINT[,ENDPOINT...] [SCENARIO...]")
		os.Exit(2)
	}
	w := &world{
		endpoints: strings.Split(os.Args[1], ","),
		user:      os.Getenv("INTEROP_USER"),
		password:  os.Getenv("INTEROP_PASSWORD"),
		typed:     bufio.NewScanner(os.Stdin),
	}
	wanted := map[string]bool{}
	for _, name := range os.Args[2:] {
		wanted[name] = true
	}
	failed := false
	for _, s := range scenarios() {
		if !wanted[s.name] && (s.named || len(os.Args) > 2) || len(w.endpoints) < s.members {
			continue
		}
		delete(wanted, s.name)
		if err := w.play(s); err != nil {
			fmt.Printf("go: %s failed: %v\n", s.name, err)
			failed = true
		}
	}
	for name := range wanted {
		fmt.Printf("go: no scenario %q for %d endpoints\n", name, len(w.endpoints))
		failed = true
	}
	if failed {
		os.Exit(1)
	}
}

func (w *world) play(s scenario) (err error) {
	started := time.Now()
	if w.client, err = w.connect(); err != nil {
		return err
	}
	defer w.client.Close()
	if w.other, err = w.connect(); err != nil {
		return err
	}
	defer w.other.Close()
	w.prefix = "go/" + s.name + "/"
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err = s.run(ctx, w); err == nil {
		fmt.Printf("go: %s held (%.1f s)\n", s.name, time.Since(started).Seconds())
	}
	return err
}

func (w *world) connect() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   w.endpoints,
		Username:    w.user,
		Password:    w.password,
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
	})
}

// ask has the harness do something and waits until it is done.
func (w *world) ask(what string) error {
	fmt.Println("? " + what)
	if !w.typed.Scan() {
		return errors.New("nobody answers " + what)
	}
	return nil
}

// must turns an unmet expectation into an error that says what was met instead.
func must(held bool, format string, values ...any) error {
	if held {
		return nil
	}
	return fmt.Errorf(format, values...)
}

// again repeats what a leader change may interrupt, as any program has to.
func again(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
