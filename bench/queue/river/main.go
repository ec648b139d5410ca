// River's queue on PostgreSQL: jobs that do nothing, inserted by several submitters one call each, then worked.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

type nothing struct{}

func (nothing) Kind() string { return "nothing" }

type worker struct {
	river.WorkerDefaults[nothing]
	left *atomic.Int64
	done chan struct{}
}

func (w *worker) Work(context.Context, *river.Job[nothing]) error {
	if w.left.Add(-1) == 0 {
		close(w.done)
	}
	return nil
}

func main() {
	jobs := flag.Int("jobs", 20000, "jobs")
	workers := flag.Int("workers", 100, "jobs at a time")
	submitters := flag.Int("submitters", 16, "who put jobs in at a time")
	flag.String("dir", "", "not used")
	flag.Parse()
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(os.Getenv("BENCH_POSTGRES"))
	check(err)
	config.MaxConns = int32(*submitters + 10)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	check(err)
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	check(err)
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	check(err)

	left, done := &atomic.Int64{}, make(chan struct{})
	left.Store(int64(*jobs))
	all := river.NewWorkers()
	river.AddWorker(all, &worker{left: left, done: done})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: *workers}},
		Workers: all,
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	check(err)

	start := time.Now()
	var group sync.WaitGroup
	for submitter := range *submitters {
		share := *jobs / *submitters
		if submitter < *jobs%*submitters {
			share++
		}
		group.Go(func() {
			for range share {
				_, err := client.Insert(ctx, nothing{}, nil)
				check(err)
			}
		})
	}
	group.Wait()
	enqueued := time.Since(start).Seconds()
	check(client.Start(ctx))
	<-done
	// Ends the batches of completions that are not written yet.
	check(client.Stop(ctx))
	var finished int
	check(pool.QueryRow(ctx, "SELECT count(*) FROM river_job WHERE state = 'completed'").Scan(&finished))
	if finished != *jobs {
		check(fmt.Errorf("%d of %d jobs are completed", finished, *jobs))
	}
	total := time.Since(start).Seconds()
	count := float64(*jobs)
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"queue": "river", "version": version(), "jobs": *jobs, "enqueue_s": enqueued, "work_s": total - enqueued,
		"jobs_per_s_enqueue": count / enqueued, "jobs_per_s_work": count / (total - enqueued), "jobs_per_s_total": count / total,
		"durability": "as the server is set",
	}))
}

func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "github.com/riverqueue/river" {
			return module.Version
		}
	}
	return "unknown"
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
