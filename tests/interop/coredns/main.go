// Coredns-scenario asks CoreDNS' etcd plugin for names while their records come, change, expire and go.
//
// Usage: coredns-scenario ENDPOINT[,ENDPOINT...] [SCENARIO...]; INTEROP_USER and INTEROP_PASSWORD log in.
// With three endpoints the leader is killed as well: `? kill-leader` on stdout asks for it, a line on stdin says that
// it is done; `? restart` brings the member back. Exits 0 when all held.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin/etcd"
	"github.com/coredns/coredns/plugin/etcd/msg"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const within = 60 * time.Second

type world struct {
	plugin *etcd.Etcd
	client *clientv3.Client
	typed  *bufio.Scanner
}

func main() {
	if len(os.Args) < 2 {
		fmt.Println("usage: coredns-scenario ENDPOINT[,ENDPOINT...] [SCENARIO...]")
		os.Exit(2)
	}
	endpoints, wanted := strings.Split(os.Args[1], ","), os.Args[2:]
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   endpoints,
		Username:    os.Getenv("INTEROP_USER"),
		Password:    os.Getenv("INTEROP_PASSWORD"),
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		fmt.Println("coredns:", err)
		os.Exit(1)
	}
	w := &world{client: client, typed: bufio.NewScanner(os.Stdin), plugin: &etcd.Etcd{
		Upstream:    upstream.New(),
		PathPrefix:  "skydns",
		Zones:       []string{"skydns.test."},
		Client:      client,
		MinLeaseTTL: 1,
	}}
	failed := false
	for _, s := range []struct {
		name    string
		members int
		run     func(context.Context, *world) error
	}{
		{"names", 1, names}, {"leases", 1, leases}, {"leader-kill", 3, leaderKill},
	} {
		if len(endpoints) < s.members || len(wanted) > 0 && !slices.Contains(wanted, s.name) {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), within)
		started := time.Now()
		if err := s.run(ctx, w); err != nil {
			fmt.Printf("coredns: %s failed: %v\n", s.name, err)
			failed = true
		} else {
			fmt.Printf("coredns: %s held (%.1f s)\n", s.name, time.Since(started).Seconds())
		}
		cancel()
	}
	if failed {
		os.Exit(1)
	}
}

// ask has the harness do something and waits until it is done.
func (w *world) ask(what string) error {
	fmt.Println("? " + what)
	if !w.typed.Scan() {
		return errors.New("nobody answers " + what)
	}
	return nil
}

// record says what a name stands for, as the tools do that register services.
func (w *world) record(ctx context.Context, name, service string, options ...clientv3.OpOption) error {
	_, err := w.client.Put(ctx, msg.Path(name, w.plugin.PathPrefix), service, options...)
	return err
}

// answers are the answer's records without spaces that differ, and its code.
func (w *world) answers(ctx context.Context, name string, kind uint16) ([]string, int, error) {
	question := new(dns.Msg)
	question.SetQuestion(name, kind)
	heard := dnstest.NewRecorder(&test.ResponseWriter{})
	code, err := w.plugin.ServeDNS(ctx, heard, question)
	if err != nil {
		return nil, code, err
	}
	if heard.Msg == nil {
		return nil, code, nil
	}
	told := []string{}
	for _, record := range heard.Msg.Answer {
		told = append(told, strings.Join(strings.Fields(record.String()), " "))
	}
	slices.Sort(told)
	return told, heard.Msg.Rcode, nil
}

func (w *world) expect(ctx context.Context, name string, kind uint16, code int, expected ...string) error {
	told, met, err := w.answers(ctx, name, kind)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if met != code || !slices.Equal(told, expected) {
		return fmt.Errorf("%s is %q (%s), not %q (%s)", name, told, dns.RcodeToString[met], expected, dns.RcodeToString[code])
	}
	return nil
}

// Addresses, services, texts and aliases, below a name and by a wildcard.
func names(ctx context.Context, w *world) error {
	for name, service := range map[string]string{
		"a.web.skydns.test.": `{"host":"10.0.0.1","port":8080,"ttl":60}`,
		"b.web.skydns.test.": `{"host":"10.0.0.2","port":8080,"ttl":60,"priority":5}`,
		"c.web.skydns.test.": `{"host":"::1","port":8080,"ttl":60}`,
		"note.skydns.test.":  `{"text":"hello","ttl":60}`,
		"alias.skydns.test.": `{"host":"a.web.skydns.test","ttl":60}`,
	} {
		if err := w.record(ctx, name, service); err != nil {
			return err
		}
	}
	checks := []error{
		w.expect(ctx, "web.skydns.test.", dns.TypeA, dns.RcodeSuccess,
			"web.skydns.test. 60 IN A 10.0.0.1", "web.skydns.test. 60 IN A 10.0.0.2"),
		w.expect(ctx, "web.skydns.test.", dns.TypeAAAA, dns.RcodeSuccess, "web.skydns.test. 60 IN AAAA ::1"),
		w.expect(ctx, "a.*.skydns.test.", dns.TypeA, dns.RcodeSuccess, "a.*.skydns.test. 60 IN A 10.0.0.1"),
		w.expect(ctx, "b.web.skydns.test.", dns.TypeSRV, dns.RcodeSuccess,
			"b.web.skydns.test. 60 IN SRV 5 100 8080 b.web.skydns.test."),
		w.expect(ctx, "note.skydns.test.", dns.TypeTXT, dns.RcodeSuccess, `note.skydns.test. 60 IN TXT "hello"`),
		w.expect(ctx, "alias.skydns.test.", dns.TypeCNAME, dns.RcodeSuccess, "alias.skydns.test. 60 IN CNAME a.web.skydns.test."),
		w.expect(ctx, "none.skydns.test.", dns.TypeA, dns.RcodeNameError),
	}
	if err := errors.Join(checks...); err != nil {
		return err
	}
	if _, err := w.client.Delete(ctx, msg.Path("a.web.skydns.test.", w.plugin.PathPrefix)); err != nil {
		return err
	}
	return w.expect(ctx, "web.skydns.test.", dns.TypeA, dns.RcodeSuccess, "web.skydns.test. 60 IN A 10.0.0.2")
}

// A name lives no longer than its lease, and is told for no longer than that has left.
func leases(ctx context.Context, w *world) error {
	granted, err := w.client.Grant(ctx, 4)
	if err != nil {
		return err
	}
	if err := w.record(ctx, "x.leased.skydns.test.", `{"host":"10.0.0.9"}`, clientv3.WithLease(granted.ID)); err != nil {
		return err
	}
	told, _, err := w.answers(ctx, "leased.skydns.test.", dns.TypeA)
	if err != nil {
		return err
	}
	if len(told) != 1 {
		return fmt.Errorf("a leased name is %q", told)
	}
	var ttl int
	if _, err := fmt.Sscanf(told[0], "leased.skydns.test. %d IN A 10.0.0.9", &ttl); err != nil || ttl < 1 || ttl > 4 {
		return fmt.Errorf("%q of a lease of four seconds (%v)", told[0], err)
	}
	for {
		told, code, err := w.answers(ctx, "leased.skydns.test.", dns.TypeA)
		if err == nil && code == dns.RcodeNameError && len(told) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("a leased name is still %q (%v)", told, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Every question is answered while the leader is gone, at most later.
func leaderKill(ctx context.Context, w *world) error {
	if err := w.record(ctx, "x.steady.skydns.test.", `{"host":"10.0.0.7","ttl":60}`); err != nil {
		return err
	}
	steady := func(turns int) error {
		for range turns {
			for {
				err := w.expect(ctx, "steady.skydns.test.", dns.TypeA, dns.RcodeSuccess, "steady.skydns.test. 60 IN A 10.0.0.7")
				if err == nil {
					break
				}
				// Without a leader the plugin says that it failed; it must not say that the name is unknown.
				if _, code, _ := w.answers(ctx, "steady.skydns.test.", dns.TypeA); code == dns.RcodeNameError || ctx.Err() != nil {
					return err
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		return nil
	}
	if err := steady(20); err != nil {
		return err
	}
	if err := w.ask("kill-leader"); err != nil {
		return err
	}
	if err := steady(50); err != nil {
		return err
	}
	if err := w.ask("restart"); err != nil {
		return err
	}
	return steady(20)
}
