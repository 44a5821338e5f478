// An application with an unmodified Go provider, driven by JSON lines: MODE HOST PORT SELECTOR.
//
// MODE: rpc, in-process or ofrep. SELECTOR: empty for none. Standard input: {"id", "kind", "key", "default", "context"}, one evaluation a line.
// Standard output: {"id", "value", ...} for each, and {"event", "flags"} for each event that a handler sees.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"strconv"
	"sync"

	flagd "github.com/open-feature/go-sdk-contrib/providers/flagd/pkg"
	"github.com/open-feature/go-sdk-contrib/providers/ofrep"
	of "github.com/open-feature/go-sdk/openfeature"
)

type question struct {
	ID      int             `json:"id"`
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Default json.RawMessage `json:"default"`
	Context map[string]any  `json:"context"`
}

var output sync.Mutex

func say(line map[string]any) {
	output.Lock()
	defer output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		log.Fatal(err)
	}
}

func provider(mode, host string, port uint16, selector string) (of.FeatureProvider, error) {
	options := []flagd.ProviderOption{flagd.WithHost(host), flagd.WithPort(port)}
	headers := []ofrep.Option{}
	if selector != "" {
		options = append(options, flagd.WithSelector(selector))
		headers = append(headers, ofrep.WithHeader("Flagd-Selector", selector))
	}
	switch mode {
	case "rpc":
		return flagd.NewProvider(options...)
	case "in-process":
		return flagd.NewProvider(append(options, flagd.WithInProcessResolver())...)
	case "ofrep":
		return ofrep.NewProvider(fmt.Sprintf("http://%s:%d", host, port), headers...), nil
	}
	return nil, fmt.Errorf("no mode %q: it is rpc, in-process or ofrep", mode)
}

func report(event of.EventType) {
	callback := func(details of.EventDetails) {
		say(map[string]any{"event": event, "flags": details.FlagChanges})
	}
	of.AddHandler(event, &callback)
}

func main() {
	port, err := strconv.ParseUint(os.Args[3], 10, 16)
	if err != nil {
		log.Fatal(err)
	}
	chosen, err := provider(os.Args[1], os.Args[2], uint16(port), os.Args[4])
	if err != nil {
		log.Fatal(err)
	}
	for _, event := range []of.EventType{of.ProviderReady, of.ProviderConfigChange, of.ProviderStale, of.ProviderError} {
		report(event)
	}
	if err := of.SetProviderAndWait(chosen); err != nil {
		say(map[string]any{"failed": err.Error()})
	}
	client := of.NewClient("app")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			log.Fatal(err)
		}
		value, found := evaluate(client, asked)
		say(map[string]any{
			"id": asked.ID, "value": value, "reason": found.Reason, "variant": found.Variant,
			"errorCode": found.ErrorCode, "metadata": found.FlagMetadata,
		})
	}
}

func evaluate(client *of.Client, asked question) (any, of.EvaluationDetails) {
	ctx, subject := context.Background(), subject(asked.Context)
	switch asked.Kind {
	case "boolean":
		found, _ := client.BooleanValueDetails(ctx, asked.Key, read[bool](asked.Default), subject)
		return found.Value, found.EvaluationDetails
	case "string":
		found, _ := client.StringValueDetails(ctx, asked.Key, read[string](asked.Default), subject)
		return found.Value, found.EvaluationDetails
	case "integer":
		found, _ := client.IntValueDetails(ctx, asked.Key, read[int64](asked.Default), subject)
		return found.Value, found.EvaluationDetails
	case "float":
		found, _ := client.FloatValueDetails(ctx, asked.Key, read[float64](asked.Default), subject)
		return found.Value, found.EvaluationDetails
	}
	found, _ := client.ObjectValueDetails(ctx, asked.Key, read[any](asked.Default), subject)
	return found.Value, found.EvaluationDetails
}

func subject(attributes map[string]any) of.EvaluationContext {
	rest := maps.Clone(attributes)
	delete(rest, "targetingKey")
	if key, ok := attributes["targetingKey"].(string); ok {
		return of.NewEvaluationContext(key, rest)
	}
	return of.NewTargetlessEvaluationContext(rest)
}

func read[T any](text json.RawMessage) (value T) {
	if err := json.Unmarshal(text, &value); err != nil {
		log.Fatal(err)
	}
	return value
}
