"""Rationales cut by hand: plain sentences and lines, with the numbers, abbreviations and options that hide sentence ends.

Owns labels only; the rule they follow and their marks are in `labelled_rationales`.
"""

MARKED = {
    "one sentence a line": r"""
Tom has 5 apples¦
He buys 7 more apples¦
5 + 7 = 12¦
The answer is 12
%%
There are 24 hours in a day.¦
She sleeps for 8 of them.¦
That leaves 24 - 8 = 16 hours.¦
Therefore, the answer is 16.
%%
The farm has 12 cows and 8 goats¦
That makes 12 + 8 = 20 animals¦
Each one eats 3 kg of hay¦
In total they eat 20 * 3 = 60 kg¦
#### 60
%%
Rabbits eat plants.¦

Foxes eat rabbits.¦

If the foxes vanish, there will be more rabbits.¦

So the correct answer is more rabbits.
%%
A ticket costs $4¦
There are 6 children¦
6 tickets cost 6 * $4 = $24¦
They pay with $50¦
They get $50 - $24 = $26 back¦
Answer: $26
%%
First find how many boxes are full.¦
100 / 12 is 8 with 4 left over.¦
So 8 boxes are full and one more is needed.¦
Hence there are 9 boxes.¦
%%
The bus starts with 10 people
   and 4 get off.¦
Then 6 get on.¦
10 - 4 + 6 = 12¦
So the final answer is 12.
%%
John runs 3 miles a day for 7 days¦
He runs 3 x 7 = 21 miles¦
Mary runs twice as far¦
She runs 42 miles¦

The answer is: 42 miles
""",
    "prose": r"""
Anna has 15 sweets and gives away 6.¦ That leaves 9 sweets.¦ She then shares them with two friends.¦ Each gets 3.~
¦ The answer is 3.
%%
We want to know how long the trip takes.¦ The distance is 180 km and the speed is 60 km per hour.~
¦ Dividing, 180 / 60 = 3.¦ So the answer is 3 hours.
%%
How many eggs are left?¦ There were 16 at first!¦ She ate 3 and baked with 4, so 16 - 7 = 9 remain.~
¦ At $2 each she makes $18.¦ Thus, the answer is $18.
%%
Ice melts when it is warmed above 0 degrees.¦ The sun warms the ice.¦ Therefore the ice turns into water.~
¦ The correct answer is water.
%%
A dozen is 12, and half a dozen is 6; together they make 18.¦ Since 3 of them broke, 15 are whole.~
¦ So the answer is 15.
%%
Each week has 7 days.¦ Six weeks have 42 days (that is 6 times 7).¦ He works on 30 of them.~
¦ So he rests on 12 days¦, and the answer is 12.
%%
The pool holds 500 litres.¦ It loses 20 litres a day.¦ After ten days 200 litres are gone.¦ What is left is 300 litres.¦
%%
The price went up by 10% and then down by 10%.¦ 100 becomes 110, and 110 becomes 99.~
¦ The price is lower than at the start by 1.¦ Hence, the final answer is 1.
""",
    "gsm8k": r"""
Natalia sold 48/2 = <<48/2=24>>24 clips in May.¦
Altogether she sold 48+24 = <<48+24=72>>72 clips.¦
#### 72
%%
He pays 3*4=$<<3*4=12>>12 for the bread.¦
He pays 2*1.5=$<<2*1.5=3>>3 for the milk.¦
In total he pays 12+3=$<<12+3=15>>15.¦
#### 15
%%
She reads 120/2 = <<120/2=60>>60 pages.¦ Then she reads 10 more, which makes 60+10 = <<60+10=70>>70 pages.~
¦ The answer is 70.
%%
Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.¦
Working 50 minutes, she earned 0.2 x 50 = $<<0.2*50=10>>10.¦
#### 10
%%
Half of 30 is 30*.5 = <<30*.5=15>>15¦
A third of 15 is 15/3 = <<15/3=5>>5¦
So there are 15-5 = <<15-5=10>>10 left¦
#### 10
%%
The total is 6 + 8 + 10 = <<6+8+10=24>>24.¦ Divided by 3 it is 24 / 3 = <<24/3=8>>8¦
#### 8
%%
Let x be the number of cats.¦
2x + 4 = 30¦
2x = <<30-4=26>>26¦
x = <<26/2=13>>13¦
#### 13
%%
There are 5 * 20% = 5 * .2 = <<5*.2=1>>1 spoiled apple.¦ That leaves 5 - 1 = <<5-1=4>>4.¦ Mr. Lee sells them for~
 4 * $1.25 = $<<4*1.25=5>>5.¦
#### 5
""",
    "abbreviations": r"""
Dr. Smith sees 12 patients a day.¦ Mrs. Jones sees 3 more, i.e. 15.¦ Together they see 27.¦ The answer is 27.
%%
The U.S. has 50 states.¦ The U.K. has 4 countries.¦ The difference is 46.¦ Answer: 46
%%
She pays $1,200.50 in Jan. and $799.50 in Feb. this year.¦ In all she pays $2,000.00.¦ So the answer is $2,000.
%%
The class starts at 10:30 a.m. and ends at 12:00 p.m. on Mondays.¦ That is 1.5 hrs. each week.¦ In 4 weeks it is 6 hrs.~
¦ The answer is 6.
%%
He is 5 ft. 11 in. tall.¦ His son is 4 ft. 2 in. tall.¦ The difference is 1 ft. 9 in., or 21 in. in all.¦ The answer is 21.
%%
Bread, milk, eggs, etc. cost $14.¦ Fruit (e.g. apples, pears) costs $6.¦ No. 5 on the list is free.¦ So he pays $20.~
¦ #### 20
%%
J. R. Smith Jr. was born in approx. 1950.¦ St. Louis is where he grew up.¦ In 2000 he was 50.¦ The answer is 50.
%%
The shop is open from 8 a.m. to 5 p.m.¦ That is 9 hours.¦ Ms. Lee works from 9 a.m. to 1 p.m.¦ She works 4 hours.~
¦ The answer is 4.
%%
Washington D.C. is a city.¦ Prof. Brown et al. counted 700,000 people there.¦ At 3.5% growth it gains 24,500 a year.~
¦ The answer is 24,500.
%%
Team A vs. Team B ended 3-1.¦ Acme Inc. paid $4.5 million for it.¦ Per goal (cf. Fig. 2) that is $4.5/4 = $1.125 million.~
¦ The answer is $1.125 million.
""",
    "multiple choice": r"""
A magnet attracts iron.¦ Wood and glass hold no iron.¦ A nail is made of iron.¦ The answer is C.
%%
(A) is wrong because the moon gives no light of its own.¦
(B) is wrong because Mars is too far.¦
(C) fits, since the sun heats the ground.¦
So the correct answer is (C).
%%
Option A: ice is solid.¦ Option B: steam is a gas.¦ Option C: water is liquid.¦ The question asks for the liquid.~
¦ Therefore, the correct option is C.
%%
A) Cats do not lay eggs.¦
B) Hens lay eggs.¦
C) Cows do not.¦
D) Neither do dogs.¦

The correct choice is B) Hens.
%%
We go through the choices.¦

A. rain - it makes things wet.¦
B. sun - it dries them.¦
C. fog - it is damp.¦

Clothes dry in the sun.¦ Thus the answer is B. sun.
%%
Plants make food from light.¦ This is called photosynthesis.¦ So it is either B or D.¦ D needs no light.~
¦ Hence the best answer is B
%%
The answer is A because a lens bends light.
%%
Photosynthesis needs carbon dioxide, so D must be it.¦ The correct answer is: D. carbon dioxide
%%
A thermometer measures heat.¦ A ruler measures length.¦ Vitamin C is no tool at all.¦ My final answer is option A.
%%
Friction slows the ball down.¦ Gravity pulls it to the ground.¦ Both act here.¦ **Answer: (D) both of them.**
""",
}
