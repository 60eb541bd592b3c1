// The verbs that main.cpp's table lists, one source file each. A verb reads its own options from
// the command and returns an exit code.
#pragma once

#include "tools/cli/completion.h"
#include "tools/cli/options.h"

namespace engine {

int audit(const Command& command);
int bench_data(const Command& command);
int bench_inference(const Command& command);
int bench_kernels(const Command& command);
int bench_step(const Command& command);
int check_data(const Command& command);
int completion(const Command& command);
int convert_weights(const Command& command);
int doctor(const Command& command);
int draw(const Command& command);
int eval(const Command& command);
int export_model(const Command& command);
int finetune(const Command& command);
int folds(const Command& command);
int fetch_weights(const Command& command);
int list_models(const Command& command);
int list_weights(const Command& command);
int parity(const Command& command);
int predict(const Command& command);
int report(const Command& command);
int scale(const Command& command);
int profile(const Command& command);
int show_batch(const Command& command);
int slurm(const Command& command);
int summary(const Command& command);
int train(const Command& command);
int verify_weights(const Command& command);
int version(const Command& command);

std::vector<VerbFacts> all_verbs();  // with their flags, in the order of the table

}  // namespace engine
