// Evaluates flags with the engine of the Go provider in process, as it is.
//
// Standard input: {"document", "contexts"}; standard output: the variants by flag, in one row, and context.
package main

import (
	"context"
	"encoding/json"
	"log"
	"maps"
	"os"

	"github.com/open-feature/flagd/core/pkg/evaluator"
	"github.com/open-feature/flagd/core/pkg/logger"
	"github.com/open-feature/flagd/core/pkg/store"
	"github.com/open-feature/flagd/core/pkg/sync"
	"go.uber.org/zap"
)

type question struct {
	Document json.RawMessage  `json:"document"`
	Contexts []map[string]any `json:"contexts"`
}

func main() {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		log.Fatal(err)
	}
	engine := evaluator.NewJSON(logger.NewLogger(zap.NewNop(), false), store.NewFlags())
	if err := engine.SetState(sync.DataSync{FlagData: string(asked.Document), Source: "graphs"}); err != nil {
		log.Fatal(err)
	}
	var names struct {
		Flags map[string]any `json:"flags"`
	}
	if err := json.Unmarshal(asked.Document, &names); err != nil {
		log.Fatal(err)
	}
	found := map[string][1][]*string{}
	for name := range names.Flags {
		row := make([]*string, len(asked.Contexts))
		for number, fields := range asked.Contexts {
			_, variant, _, _, err := engine.ResolveBooleanValue(context.Background(), "", name, maps.Clone(fields))
			if err == nil && variant != "" {
				row[number] = &variant
			}
		}
		found[name] = [1][]*string{row}
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		log.Fatal(err)
	}
}
