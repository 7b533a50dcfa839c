// The load that benchmarks/store.py puts on etcd, with etcd's own Go client: built from Debian's
// golang-etcd-server-dev, because a Python client would measure itself.
//
//	etcd_load -endpoints https://h:p,... -cert F -key F -cacert F -op put|get|txn|watch|range -callers N -count N -value BYTES
//
// -op leader says {"leader": which endpoint leads, from 1}; -op gap writes one after the other for -count milliseconds and
// says {"gap_s": the longest time between two acknowledged ones}; -op fill writes -keys keys, 100 a transaction.
//
// One line of JSON on standard output: {"rate", "p50_ms", "p99_ms", "cpu_us", "member_us"}: CPU per call of this process
// and of each of -pids. Connecting is over before anything is counted.
// -connections C: how many connections the callers share (0: one each).
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/pkg/transport"
)

var (
	endpoints   = flag.String("endpoints", "", "comma-separated, the first is used first")
	cert        = flag.String("cert", "", "client certificate")
	key         = flag.String("key", "", "client key")
	cacert      = flag.String("cacert", "", "CA")
	op          = flag.String("op", "put", "put, get, txn, range, watch, leader, gap or fill")
	callers     = flag.Int("callers", 1, "concurrent callers")
	connections = flag.Int("connections", 0, "connections, 0: one a caller")
	count       = flag.Int("count", 1000, "calls")
	value       = flag.Int("value", 256, "bytes of a value")
	keys        = flag.Int("keys", 10000, "keys")
	pids        = flag.String("pids", "", "comma-separated: whose CPU to count")
	watchers    = flag.Int("watchers", 1, "watchers of -op watch")
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dial() *clientv3.Client {
	config := clientv3.Config{Endpoints: strings.Split(*endpoints, ","), DialTimeout: 10 * time.Second}
	if *cert != "" {
		info := transport.TLSInfo{CertFile: *cert, KeyFile: *key, TrustedCAFile: *cacert}
		tls, err := info.ClientConfig()
		fail(err)
		config.TLS = tls
	}
	client, err := clientv3.New(config)
	fail(err)
	return client
}

// name is 32 bytes, like those of benchmarks/store.py.
func name(i int64) string { return fmt.Sprintf("/registry/pods/default/%09d", i%int64(*keys)) }

func cpu() float64 {
	var usage syscall.Rusage
	fail(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// cpuOf is what the process of -pids has used, in seconds.
func cpuOf(pid string) float64 {
	raw, err := os.ReadFile("/proc/" + pid + "/stat")
	fail(err)
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, err := strconv.ParseFloat(fields[11], 64)
	fail(err)
	system, err := strconv.ParseFloat(fields[12], 64)
	fail(err)
	return (user + system) / 100 // USER_HZ
}

func members() []float64 {
	var used []float64
	for _, pid := range strings.Split(*pids, ",") {
		if pid != "" {
			used = append(used, cpuOf(pid))
		}
	}
	return used
}

func call(ctx context.Context, client *clientv3.Client, i int64, body string) error {
	var err error
	switch *op {
	case "put":
		_, err = client.Put(ctx, name(i), body)
	case "get":
		_, err = client.Get(ctx, name(i))
	case "range":
		_, err = client.Get(ctx, "/registry/pods/", clientv3.WithPrefix())
	case "fill":
		var puts []clientv3.Op
		for k := i * 100; k < (i+1)*100; k++ {
			puts = append(puts, clientv3.OpPut(name(k), body))
		}
		_, err = client.Txn(ctx).Then(puts...).Commit()
	case "txn":
		guard := clientv3.Compare(clientv3.ModRevision("/registry/namespaces/default"), "<", int64(1)<<60)
		_, err = client.Txn(ctx).If(guard).Then(clientv3.OpPut(name(i), body)).Commit()
	}
	return err
}

func load(ctx context.Context, clients []*clientv3.Client) []float64 {
	body := strings.Repeat("v", *value)
	took := make([]float64, *count)
	var next int64 = -1
	var group sync.WaitGroup
	for c := 0; c < *callers; c++ {
		group.Add(1)
		go func(client *clientv3.Client) {
			defer group.Done()
			for {
				i := atomic.AddInt64(&next, 1)
				if i >= int64(*count) {
					return
				}
				began := time.Now()
				fail(call(ctx, client, i, body))
				took[i] = float64(time.Since(began).Nanoseconds()) / 1e6
			}
		}(clients[c%len(clients)])
	}
	group.Wait()
	return took
}

// watch: -watchers watchers of one prefix while -callers write -count events; a sample is one event at one watcher.
func watch(ctx context.Context, clients []*clientv3.Client) []float64 {
	written := make([]int64, *count)
	body := strings.Repeat("v", *value)
	samples := make([][]float64, *watchers)
	var ready, done sync.WaitGroup
	for w := 0; w < *watchers; w++ {
		ready.Add(1)
		done.Add(1)
		go func(w int) {
			defer done.Done()
			stream := clients[w%len(clients)].Watch(ctx, "/watched/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
			started := false
			for answer := range stream {
				fail(answer.Err())
				if !started && answer.Created {
					started = true
					ready.Done()
				}
				now := time.Now().UnixNano()
				for _, event := range answer.Events {
					var i int
					fmt.Sscanf(string(event.Kv.Key), "/watched/%d", &i)
					samples[w] = append(samples[w], float64(now-atomic.LoadInt64(&written[i]))/1e6)
				}
				if len(samples[w]) == *count {
					return
				}
			}
		}(w)
	}
	ready.Wait()
	var next int64 = -1
	for c := 0; c < *callers; c++ {
		go func(client *clientv3.Client) {
			for i := atomic.AddInt64(&next, 1); i < int64(*count); i = atomic.AddInt64(&next, 1) {
				atomic.StoreInt64(&written[i], time.Now().UnixNano())
				_, err := client.Put(ctx, fmt.Sprintf("/watched/%023d", i), body)
				fail(err)
			}
		}(clients[c%len(clients)])
	}
	done.Wait()
	var all []float64
	for _, mine := range samples {
		all = append(all, mine...)
	}
	return all
}

// leader: which of -endpoints leads, from 1.
func leader(ctx context.Context, client *clientv3.Client) float64 {
	for i, endpoint := range strings.Split(*endpoints, ",") {
		status, err := client.Status(ctx, endpoint)
		fail(err)
		if status.Leader == status.Header.MemberId {
			return float64(i + 1)
		}
	}
	return 0
}

// gap: the longest time between two acknowledged writes, in seconds. A write that takes half a second is given up.
func gap(ctx context.Context, client *clientv3.Client) float64 {
	began := time.Now()
	last, widest := began, time.Duration(0)
	for time.Since(began) < time.Duration(*count)*time.Millisecond {
		limited, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		_, err := client.Put(limited, "/registry/pods/default/000000001", strings.Repeat("v", *value))
		cancel()
		if err != nil {
			continue
		}
		if time.Since(last) > widest {
			widest = time.Since(last)
		}
		last = time.Now()
	}
	return widest.Seconds()
}

func percentile(sorted []float64, p float64) float64 {
	at := int(p / 100 * float64(len(sorted)))
	if at >= len(sorted) {
		at = len(sorted) - 1
	}
	return sorted[at]
}

func main() {
	flag.Parse()
	ctx := context.Background()
	n := *connections
	if n == 0 {
		n = *callers
	}
	clients := make([]*clientv3.Client, n)
	for i := range clients {
		clients[i] = dial()
		_, err := clients[i].Get(ctx, "warm")
		fail(err)
	}
	if *op == "leader" {
		fail(json.NewEncoder(os.Stdout).Encode(map[string]float64{"leader": leader(ctx, clients[0])}))
		return
	}
	if *op == "gap" {
		fail(json.NewEncoder(os.Stdout).Encode(map[string]float64{"gap_s": gap(ctx, clients[0])}))
		return
	}
	members0, before, began := members(), cpu(), time.Now()
	var took []float64
	if *op == "watch" {
		took = watch(ctx, clients)
	} else {
		took = load(ctx, clients)
	}
	seconds := time.Since(began).Seconds()
	spent := cpu() - before
	used := members()
	for i := range used {
		used[i] = (used[i] - members0[i]) / float64(len(took)) * 1e6
	}
	sort.Float64s(took)
	fail(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"rate":      float64(len(took)) / seconds,
		"p50_ms":    percentile(took, 50),
		"p99_ms":    percentile(took, 99),
		"cpu_us":    spent / float64(len(took)) * 1e6,
		"member_us": used,
	}))
}
